using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Native.Tests.Kernels;

/// <summary>The suite runs again in processes with narrower SIMD, which say through <c>NATIVE_EXPECT_NO</c> what they
/// turned off.</summary>
public sealed class SimdSwitchTests
{
    [Fact]
    public void TheSwitchOfThisProcess_TookEffect()
    {
        string? without = Environment.GetEnvironmentVariable("NATIVE_EXPECT_NO");
        Assert.SkipWhen(string.IsNullOrEmpty(without), "NATIVE_EXPECT_NO is not set: this process runs with all the machine has");
        switch (without)
        {
            case "AVX512":
                Assert.False(Avx512F.IsSupported || Avx512BW.IsSupported || Vector512.IsHardwareAccelerated, "AVX-512 is still on");
                break;
            case "AVX2":
                Assert.False(Avx2.IsSupported || Fma.IsSupported || AvxVnni.IsSupported || Avx512F.IsSupported, "AVX2, or what builds on it, is still on");
                break;
            default:
                Assert.Fail($"NATIVE_EXPECT_NO is {without}, expected AVX512 or AVX2");
                break;
        }
    }
}
