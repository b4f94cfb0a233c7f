using Native.Kernels;
using Native.Kernels.Cpu;

namespace Native.Tests.Kernels.Cpu;

public sealed class BackendGoldenTests : GoldenModelTests
{
    private protected override IBackend CreateBackend() => new CpuBackend(new CpuOptions { Threads = 2 });
}
