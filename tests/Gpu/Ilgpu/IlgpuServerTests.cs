using System.Net;
using Grpc.Core;
using Native.Kernels.Ilgpu;
using Native.Server;
using Native.V1;

namespace Native.Tests.Gpu.Ilgpu;

/// <summary>The server over a real OpenCL device.</summary>
[Collection(nameof(Pocl))]
public sealed class IlgpuServerTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    private static ServerOptions Options => ModelServer.Options with { Backend = "ilgpu" };

    [Fact]
    public async Task HttpAndGrpc_GenerateWhatTheCpuGenerates()
    {
        ServerOptions options = Options with { Device = Pocl.Device };
        await using ModelServer cpu = await ModelServer.StartAsync(Options with { Backend = "cpu" });
        (HttpStatusCode _, string expected) = await cpu.Complete(tokens: 24);
        await using ModelServer server = await ModelServer.StartAsync(options);
        Assert.Null(server.Mistake);
        Assert.Equal((HttpStatusCode.OK, expected), await server.Complete(tokens: 24));
        GenerateRequest request = new()
        {
            Text = "Once upon a time",
            Sampling = new SamplingParams { Temperature = 0, MaxTokens = 24 },
        };
        using AsyncServerStreamingCall<GenerateResponse> call =
            server.Inference.Generate(request, cancellationToken: Token);
        string text = "";
        await foreach (GenerateResponse response in call.ResponseStream.ReadAllAsync(Token))
            text += response.Token?.Text + response.Finished?.Text;
        Assert.Equal(expected, text);
        GetServerInfoResponse info = await server.Inference.GetServerInfoAsync(new(), cancellationToken: Token);
        Assert.Matches(@"^ilgpu \(.* \(OpenCL by PoCL, processors\)\)$", info.Backend);
        Assert.Contains($"backend  {info.Backend}\n", server.StartupText());
        await server.AllBlocksFree();
    }

    [Fact]
    public async Task WhoLeavesInMidStream_FreesAllBlocks_AndAnotherServerHasTheDeviceAfterwards()
    {
        ServerOptions options = Options with { Device = Pocl.Device };
        for (int i = 0; i < 2; i++)
        {
            await using ModelServer server = await ModelServer.StartAsync(options);
            using (HttpResponseMessage response = await server.Post(
                """{"prompt":"Once upon a time","max_tokens":100,"temperature":0.8,"stream":true}"""))
            {
                using Stream stream = await response.Content.ReadAsStreamAsync(Token);
                await stream.ReadExactlyAsync(new byte[100], Token);
            }
            using (AsyncServerStreamingCall<GenerateResponse> call =
                server.Inference.Generate(new GenerateRequest { Text = "Once" }, cancellationToken: Token))
            {
                await call.ResponseStream.MoveNext(Token);
            }
            await server.AllBlocksFree();
            Assert.Equal(HttpStatusCode.OK, (await server.Complete()).Status);
        }
    }

    /// <summary>The processors are no GPU: who wants them as an OpenCL device says so.</summary>
    [Fact]
    public async Task ProcessorsAreTakenIfTheyAreNamed_AndNotOtherwise()
    {
        string device = Pocl.Device;
        Assert.SkipWhen(IlgpuDevice.All().Any(found => found.IsGpu), "a GPU is here");
        await using (ModelServer server = await ModelServer.StartAsync(Options))
        {
            Assert.Contains($"no GPU was found. What --device may name: {device}: ", server.Mistake);
            Assert.Contains("(OpenCL by PoCL, processors). Or use --backend cpu", server.Mistake);
        }
        await using (ModelServer server = await ModelServer.StartAsync(Options with { Backend = "auto" }))
        {
            Assert.StartsWith("cpu (", server.Model.Info.Backend);
            Assert.Null(server.Model.WhyNoGpu);
        }
        await using (ModelServer server = await ModelServer.StartAsync(Options with { BackendFallback = "cpu" }))
        {
            Assert.StartsWith("cpu (", server.Model.Info.Backend);
            Assert.Contains("no GPU was found", server.Model.WhyNoGpu);
        }
        foreach (string choice in (string[])["pocl", "PTHREAD", device])
        {
            await using ModelServer server = await ModelServer.StartAsync(Options with { Device = choice });
            Assert.Equal(HttpStatusCode.OK, (await server.Complete(tokens: 1)).Status);
        }
        ServerOptions named = Options with { Backend = "auto", Device = "pocl" };
        await using (ModelServer server = await ModelServer.StartAsync(named))
            Assert.StartsWith("ilgpu (", server.Model.Info.Backend);
        await using (ModelServer server = await ModelServer.StartAsync(Options with { Device = "h200" }))
            Assert.StartsWith("--device is 'h200', which is no device's number or part of its name. There are: 0: ",
                server.Mistake);
    }

    [Fact]
    public async Task WithoutAnyDevice_TheStartEndsWithOneLine()
    {
        Assert.SkipWhen(IlgpuDevice.All().Count > 0, "a device is here");
        await using ModelServer server = await ModelServer.StartAsync(Options);
        Assert.StartsWith("no device was found: neither libcuda.so.1 nor an OpenCL driver", server.Mistake);
        Assert.DoesNotContain('\n', server.Mistake!);
    }

    /// <summary>A driver may not change what the rest of the process does: PoCL has a handler for a signal that is
    /// .NET's.</summary>
    [Theory]
    [InlineData(long.MinValue, -1)]
    [InlineData(1, 0)]
    public void WithPoclInTheProcess_ADivisionThatCantBeDone_IsAnException(long dividend, long divisor)
    {
        using (IlgpuDevice.Open(Pocl.Device)) Assert.ThrowsAny<ArithmeticException>(() => dividend / divisor);
    }

    /// <summary>A cache that is larger than what the device has.</summary>
    [Fact]
    public async Task MemoryThatIsNotThere_IsToldBeforeWeightsAreLoaded()
    {
        ServerOptions options = Options with { Device = Pocl.Device, KvCacheBytes = 1L << 45 };
        await using ModelServer server = await ModelServer.StartAsync(options);
        Assert.Contains("a KV cache of 33554432 MiB was asked for", server.Mistake);
    }
}
