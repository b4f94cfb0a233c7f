using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Models;

namespace Native.Tests.Kernels;

/// <summary>What tests need to know of models.</summary>
internal static class TestModels
{
    /// <summary>Bytes of keys and values that a token takes over all layers on the CPU.</summary>
    public static long KvBytesPerToken(ModelConfig config, DType type) => config.LayerCount * CpuKvLayer.BlockBytes(config.KvShape(1, type));
}
