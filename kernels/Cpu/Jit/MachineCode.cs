using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using Iced.Intel;
using Native.Kernels.Cpu.Machine;
using Native.Kernels.Cpu.Panels;
using Native.Kernels.Formats;

namespace Native.Kernels.Cpu.Jit;

/// <summary>The machine code of <see cref="CpuVariant.Avx512Vnni"/>, made once in a process for each format in
/// use.</summary>
internal static unsafe class MachineCode
{
#pragma warning disable RS0030 // taken while a model loads, never in a step
    private static readonly Lock Making = new();
#pragma warning restore RS0030
    private static readonly Dictionary<PanelTraits, nint> Int8Tiles = [];
    private static nint s_bfloat16Tiles;

    /// <summary>Whether this process can make and run it.</summary>
    public static bool IsSupported { get; } = ExecutableMemory.IsSupported && Avx512F.IsSupported
        && Avx512BW.IsSupported && Has(leaf: 0, register: 2, bit: 11)
        && ExecutableMemory.Assemble([Nothing()]).Length == 1;

    /// <summary>Whether VDPBF16PS is there too.</summary>
    public static bool HasBFloat16 { get; } = IsSupported && Has(leaf: 1, register: 0, bit: 5);

    /// <summary>A quantized format's tiles.</summary>
    public static void Set<T>(ref PanelFormat.Entry code)
        where T : IIntegerFormat
    {
        PanelTraits traits = PanelTraits.Of<T>();
        code.Activations = ActivationType.Int8;
        code.TileRows = TileAssembler.MaxRows;
        lock (Making)
        {
            if (!Int8Tiles.TryGetValue(traits, out nint tiles))
                Int8Tiles.Add(traits, tiles =
                    Make([.. Shapes(TileAssembler.MaxRows, rows => TileAssembler.Write(traits, rows, listed: false)),
                    .. Shapes(TileAssembler.MaxRows, rows => TileAssembler.Write(traits, rows, listed: true))]));
            code.Tiles = (nint*)tiles;
        }
    }

    /// <summary>The bfloat16 format's tiles, where the processor has the instruction.</summary>
    public static void SetBFloat16(ref PanelFormat.Entry code)
    {
        if (!HasBFloat16) return;
        lock (Making)
        {
            if (s_bfloat16Tiles == 0)
                s_bfloat16Tiles = Make([.. Shapes(BFloat16TileAssembler.MaxRows, BFloat16TileAssembler.Write)]);
            code.Tiles = (nint*)s_bfloat16Tiles;
        }
        code.Activations = ActivationType.BFloat16;
        code.TileRows = BFloat16TileAssembler.MaxRows;
    }

    /// <summary>Whether prefetched lines go into the L1 cache: it must have room for some kilobytes beside the data in
    /// use.</summary>
    public static bool FetchesToFirstLevel => Processors.FirstLevelCacheBytes >= 48 << 10;

    /// <summary>Prefetches a line that a tile of this many rows reads some microseconds later.</summary>
    /// <remarks>An L1 cache of 32 KiB has no room for it beside the data in use, so there it goes into L2. A single row
    /// does not prefetch there: it reads one stream at the speed of memory, which the processor prefetches
    /// itself.</remarks>
    public static void Fetch(Assembler code, AssemblerMemoryOperand line, int rows)
    {
        if (FetchesToFirstLevel) code.prefetcht0(AssemblerRegisters.__byte_ptr[line]);
        else if (rows > 1) code.prefetcht1(AssemblerRegisters.__byte_ptr[line]);
    }

    private static IEnumerable<Assembler> Shapes(int maxRows, Func<int, Assembler> write) =>
        Enumerable.Range(1, maxRows).Select(write);

    private static nint Make(Assembler[] code)
    {
        nint[] functions = ExecutableMemory.Assemble(code);
        if (functions.Length == 0)
            throw new InvalidOperationException("the system forbade executable memory that it had granted before");
        nint* table = (nint*)NativeMemory.Alloc((nuint)(functions.Length * sizeof(nint)));
        functions.CopyTo(new Span<nint>(table, functions.Length));
        return (nint)table;
    }

    private static Assembler Nothing()
    {
        var c = new Assembler(64);
        c.ret();
        return c;
    }

    /// <summary>A bit of CPUID's leaf 7 (Intel's manual, volume 2, CPUID).</summary>
    private static bool Has(int leaf, int register, int bit)
    {
        (int eax, _, int ecx, _) = X86Base.CpuId(7, leaf);
        return ((register == 0 ? eax : ecx) >> bit & 1) != 0;
    }
}
