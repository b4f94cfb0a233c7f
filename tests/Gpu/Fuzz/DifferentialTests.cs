using System.Runtime.InteropServices;
using Native.Tests.Gpu.Machine;

namespace Native.Tests.Gpu.Fuzz;

/// <summary>Random functions do the same, bit for bit, as PTX on the machine and as x86 instructions: what the machine
/// makes of PTX is what its compiler means by it. <c>NATIVE_FUZZ_SEEDS</c> says how many programs (default 10).
/// </summary>
public sealed unsafe class DifferentialTests
{
    private const int Functions = 20, Items = 256;

    [Fact]
    public void RandomFunctions_DoTheSame_OnTheMachineAndOnThisProcessor()
    {
        Assert.SkipUnless(Clang.IsHere, $"{Clang.Name} is not installed");
        int seeds = int.Parse(Environment.GetEnvironmentVariable("NATIVE_FUZZ_SEEDS") ?? "10");
        DirectoryInfo folder = Directory.CreateTempSubdirectory("native-ptx-");
        try
        {
            for (int seed = 1; seed <= seeds; seed++) Compare(folder.FullName, seed);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static void Compare(string folder, int seed)
    {
        string source = Path.Combine(folder, $"{seed}.cu"), library = Path.Combine(folder, $"{seed}.so");
        File.WriteAllText(source, RandomProgram.Of(seed, Functions));
        Clang.ToLibrary(source, library, seed % 2 == 0 ? "-O0" : "-O2");
        using DeviceMemory memory = new();
        using GpuModule module = new(Clang.ToPtx(source), memory);
        nint host = NativeLibrary.Load(library);
        ulong[] inputs = Inputs(seed), expected = new ulong[Items];
        MemoryRange input = memory.Allocate<ulong>("inputs", inputs), output = memory.Allocate("outputs", Items * 8);
        for (int i = 0; i < Functions; i++)
        {
            nint function = NativeLibrary.GetExport(host, $"h{i}");
            fixed (ulong* from = inputs, to = expected)
                ((delegate* unmanaged<ulong*, ulong*, int, void>)function)(from, to, Items);
            GpuFault? fault = Record.Exception(() => module.Launch($"g{i}", new(Items / 64), new(64), [input, output]))
                as GpuFault;
            Assert.True(fault is null, $"seed {seed}: {fault?.Message}");
            ReadOnlySpan<ulong> actual = new(output.Data, Items);
            int at = actual.CommonPrefixLength(expected);
            Assert.True(at == Items, at == Items ? "" : $"seed {seed}, f{i}, item {at} ({string.Join(", ",
                inputs.Skip(4 * at).Take(4).Select(x => $"0x{x:x}"))}): 0x{actual[at]:x}, not 0x{expected[at]:x}");
        }
        NativeLibrary.Free(host);
    }

    private static ulong[] Inputs(int seed)
    {
        Random random = new(seed);
        ulong[] special = [0, 1, 2, 31, 32, 63, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, ulong.MaxValue, 1ul << 63,
            0x3f80_0000, 0x7f80_0000, 0x7fc0_0000, 0x0000_0001_0000_0000];
        ulong[] inputs = new ulong[Items * RandomProgram.Inputs];
        foreach (ref ulong input in inputs.AsSpan())
            input = random.Next(3) == 0 ? special[random.Next(special.Length)]
                : (ulong)random.NextInt64(long.MinValue, long.MaxValue) >> random.Next(64);
        return inputs;
    }
}
