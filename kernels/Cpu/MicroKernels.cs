using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;
using Native.Kernels.Cpu.Jit;
using Native.Kernels.Cpu.Panels;
using Native.Kernels.Formats;

namespace Native.Kernels.Cpu;

/// <summary>The variants of the inner loops, and which of them this processor runs.</summary>
/// <remarks>The AVX-512 and AdvSimd code has plain substitutes for the few instructions that only it uses, so tests run
/// its logic on any x86 with AVX2.</remarks>
internal static unsafe class MicroKernels
{
    /// <summary>The variants this processor can run, slowest first.</summary>
    public static IReadOnlyList<CpuVariant> Supported { get; } = [.. Enum.GetValues<CpuVariant>().Where(IsSupported)];

    /// <summary>The fastest of them.</summary>
    public static CpuVariant Best => Supported[^1];

    /// <summary>Whether this processor has a variant's instructions.</summary>
    public static bool IsSupported(CpuVariant variant) => variant switch
    {
        CpuVariant.Scalar => true,
        CpuVariant.Avx2 => Avx2.IsSupported && Fma.IsSupported,
        CpuVariant.AvxVnni => Avx2.IsSupported && Fma.IsSupported && AvxVnni.IsSupported,
        CpuVariant.Avx512 => Avx512F.IsSupported && Avx512BW.IsSupported,
        CpuVariant.Avx512Vnni => MachineCode.IsSupported,
        CpuVariant.AdvSimd => AdvSimd.Arm64.IsSupported && Dp.IsSupported,
        _ => false,
    };

    /// <summary>All formats, with a variant's code.</summary>
    /// <param name="variant">One that <see cref="IsSupported"/>.</param>
    /// <param name="floatActivations">Quantized weights meet float activations.</param>
    public static PanelFormat[] Formats(CpuVariant variant, bool floatActivations)
    {
        return
        [
            Floats<PanelF32>(), Floats<PanelF16>(), Floats<PanelBF16>(),
            Quantized<Q8_0Integers>(), Quantized<Q4_0Integers>(), Quantized<Q4_1Integers>(),
            Quantized<Q5_0Integers>(), Quantized<Q5_1Integers>(),
            Quantized<Q2_KIntegers>(), Quantized<Q3_KIntegers>(), Quantized<Q4_KIntegers>(),
            Quantized<Q5_KIntegers>(), Quantized<Q6_KIntegers>(),
            Quantized<IQ4_NLIntegers>(), Quantized<IQ4_XSIntegers>(),
        ];

        FloatPanelFormat<T> Floats<T>()
            where T : IFloatPanel => new(() => FloatCode<T>(variant, floatActivations));

        QuantizedPanelFormat<T> Quantized<T>()
            where T : IIntegerFormat => new(() => QuantizedCode<T>(variant, floatActivations));
    }

    private static PanelFormat.Entry FloatCode<T>(CpuVariant variant, bool floatActivations)
        where T : IFloatPanel
    {
        PanelFormat.Entry code = new()
        {
            Repack = &FloatPanelFormat<T>.Repack,
            DecodeRow = &FloatPanelFormat<T>.DecodeRow,
        };
        SetFloats<T>(ref code, variant);
        if (variant == CpuVariant.Avx512Vnni && T.Type == TensorType.BF16 && !floatActivations)
            MachineCode.SetBFloat16(ref code);
        return code;
    }

    private static PanelFormat.Entry QuantizedCode<T>(CpuVariant variant, bool floatActivations)
        where T : IIntegerFormat
    {
        PanelFormat.Entry code = new()
        {
            Repack = &QuantizedPanelFormat<T>.Repack,
            DecodeRow = &QuantizedPanelFormat<T>.DecodeRow,
        };
        if (floatActivations)
        {
            code.DecodePanel = &QuantizedPanelFormat<T>.DecodePanel;
            SetFloats<PanelF32>(ref code, variant);
        }
        else if (variant == CpuVariant.Avx512Vnni)
        {
            MachineCode.Set<T>(ref code);
        }
        else
        {
            code.Activations = ActivationType.Int8;
            code.HeaderBytes = Panel<T>.HeaderBytes;
            code.HalfBytes = PanelLayout.HalfStride;
            code.HalfScaleBytes = Panel<T>.UnitScaleBytes;
            Set(ref code, variant switch
            {
                CpuVariant.Avx2 => Pair(&MicroKernelsAvx2.One<T, MicroKernelsAvx2.Pairs>,
                    &MicroKernelsAvx2.Four<T, MicroKernelsAvx2.Pairs>),
                CpuVariant.AvxVnni => Pair(&MicroKernelsAvx2.One<T, MicroKernelsAvx2.Quadruples>,
                    &MicroKernelsAvx2.Four<T, MicroKernelsAvx2.Quadruples>),
                CpuVariant.Avx512 => Pair(&MicroKernelsAvx512.One<T>, &MicroKernelsAvx512.Four<T>),
                CpuVariant.AdvSimd => Pair(&MicroKernelsArm.One<T>, &MicroKernelsArm.Four<T>),
                _ => Pair(&MicroKernelsScalar.One<T>, &MicroKernelsScalar.Four<T>),
            });
        }
        return code;
    }

    private static void SetFloats<T>(ref PanelFormat.Entry code, CpuVariant variant)
        where T : IFloatPanel
    {
        code.HalfBytes = 16 * T.Size;
        Set(ref code, variant switch
        {
            CpuVariant.Avx2 or CpuVariant.AvxVnni =>
                Pair(&MicroKernelsAvx2.FloatOne<T>, &MicroKernelsAvx2.FloatFour<T>),
            CpuVariant.Avx512 or CpuVariant.Avx512Vnni =>
                Pair(&MicroKernelsAvx512.FloatOne<T>, &MicroKernelsAvx512.FloatFour<T>),
            CpuVariant.AdvSimd => Pair(&MicroKernelsArm.FloatOne<T>, &MicroKernelsArm.FloatFour<T>),
            _ => Pair(&MicroKernelsScalar.FloatOne<T>, &MicroKernelsScalar.FloatFour<T>),
        });
    }

    private static void Set(ref PanelFormat.Entry code, Kernels kernels)
    {
        code.One = kernels.One;
        code.Four = kernels.Four;
        code.TileRows = 4;
    }

    private static Kernels Pair(delegate*<byte*, byte*, byte**, int, float*, void> one,
        delegate*<byte*, byte*, byte**, int, float*, void> four) => new() { One = one, Four = four };

    // Pointers can't stand in a tuple.
    private struct Kernels
    {
        public delegate*<byte*, byte*, byte**, int, float*, void> One;
        public delegate*<byte*, byte*, byte**, int, float*, void> Four;
    }
}
