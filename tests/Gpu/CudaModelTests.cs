using Native.Kernels;
using Native.Kernels.Cuda;
using Native.Tests.Kernels;

namespace Native.Tests.Gpu;

/// <summary>The cuda backend on the PTX machine, held to what every backend is: real and tiny models against float64.
/// </summary>
[Collection(nameof(FakeCuda))] // there is one at a time
public sealed class GoldenModelCudaTests : GoldenModelTests, IDisposable
{
    private readonly FakeCuda _fake = new();

    private protected override IBackend CreateBackend() => new CudaBackend();

    private protected override IBackend CreateExactBackend() => CreateBackend();

    /// <summary>The tightest: of the others <see cref="CudaAttentionTests"/> and stories260K tell, in less time.
    /// </summary>
    private protected override DType[] CacheTypes => [DType.F32];

    public void Dispose()
    {
        Exception? caught = _fake.Caught;
        IReadOnlyList<string> leaks = _fake.Leaks;
        _fake.Dispose();
        Assert.Null(caught);
        Assert.Empty(leaks);
    }
}
