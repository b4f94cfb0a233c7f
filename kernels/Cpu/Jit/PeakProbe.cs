using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Native.Kernels.Cpu.Jit;

/// <summary>Machine code that only multiplies and adds. It measures a core's peak, so that results can be given as
/// shares of it.</summary>
internal static unsafe class PeakProbe
{
    private const int Sums = 24; // more than latency times pipes

    /// <summary>A <c>delegate* unmanaged&lt;long, void&gt;</c> that runs as many rounds of VPDPBUSD as its argument
    /// says. Zero where the processor lacks the instruction or code can't be made.</summary>
    public static nint Int8 { get; } = MachineCode.IsSupported
        ? Assemble((c, sum) => c.vpdpbusd(sum, zmm30, zmm31)) : 0;

    /// <summary>The same for VDPBF16PS.</summary>
    public static nint BFloat16 { get; } = MachineCode.HasBFloat16
        ? Assemble((c, sum) => c.vdpbf16ps(sum, zmm30, zmm31)) : 0;

    /// <summary>Multiplications and additions of a round.</summary>
    public const int Int8Operations = Sums * 128, BFloat16Operations = Sums * 64;

    private static nint Assemble(Action<Assembler, AssemblerRegisterZMM> operation)
    {
        AssemblerRegisterZMM[] sums =
        [
            zmm0, zmm1, zmm2, zmm3, zmm4, zmm5, zmm6, zmm7, zmm8, zmm9, zmm10, zmm11,
            zmm12, zmm13, zmm14, zmm15, zmm16, zmm17, zmm18, zmm19, zmm20, zmm21, zmm22, zmm23,
        ];
        var c = new Assembler(64);
        // Zeros: no denormals, no overflow
        foreach (AssemblerRegisterZMM sum in (AssemblerRegisterZMM[])[.. sums, zmm30, zmm31]) c.vpxord(sum, sum, sum);
        Label round = c.CreateLabel();
        c.Label(ref round);
        foreach (AssemblerRegisterZMM sum in sums) operation(c, sum);
        c.dec(rdi);
        c.jne(round);
        c.vzeroupper();
        c.ret();
        return ExecutableMemory.Assemble([c]).FirstOrDefault();
    }
}
