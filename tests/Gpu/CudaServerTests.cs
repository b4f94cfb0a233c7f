using System.Net;
using Grpc.Core;
using Grpc.Health.V1;
using Native.Kernels.Cuda;
using Native.Server;
using Native.Tests.Server;
using Native.V1;

namespace Native.Tests.Gpu;

/// <summary>The server over the fake driver: what it computes, and what becomes of it when the device is not as it
/// should be.</summary>
[Collection(nameof(FakeCuda))] // there is one at a time
public sealed class CudaServerTests
{
    private const string Story = """{"prompt":"Once upon a time","max_tokens":100,"temperature":0,"stream":true}""";

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    private static ServerOptions Options => ModelServer.Options;

    private static ServerOptions WithFallback => Options with { BackendFallback = "cpu" };

    [Fact]
    public async Task HttpAndGrpc_GenerateWhatTheCpuGenerates()
    {
        await using ModelServer cpu = await ModelServer.StartAsync(Options with { Backend = "cpu" });
        (HttpStatusCode _, string expected) = await cpu.Complete(tokens: 24);
        using FakeCuda fake = new();
        await using (ModelServer server = await ModelServer.StartAsync(Options))
        {
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
            Assert.Equal("cuda (Fake H200, device 0, compute capability 9.0)", info.Backend);
            Assert.Contains($"backend  {info.Backend}\n", server.StartupText());
            Assert.Contains($"backend=\"{info.Backend}\"", (await server.Get("/metrics")).Text);
            await server.AllBlocksFree();
        }
        Assert.Null(fake.Caught);
        Assert.Empty(fake.Leaks);
    }

    [Fact]
    public async Task WhoLeavesInMidStream_FreesAllBlocks()
    {
        using FakeCuda fake = new();
        await using ModelServer server = await ModelServer.StartAsync(Options);
        using (HttpResponseMessage response = await server.Post(Story))
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
        Assert.Null(fake.Caught);
    }

    public static TheoryData<string, string> Unusable => new()
    {
        { "old driver", "CUDA 11.8" },
        { "no device", "CUDA_ERROR_NO_DEVICE" },
        { "old device", "compute capability 7.5" },
        { "two old devices", "none of the 2 devices can be used" },
        { "small device", "CUDA_ERROR_OUT_OF_MEMORY" },
        { "full device", "--gpu-memory-utilization 0.9" },
        { "cuModuleLoadDataEx 222", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" },
        { "cuInit 999", "CUDA_ERROR_UNKNOWN" },
        { "cuMemAllocAsync 700", "CUDA_ERROR_ILLEGAL_ADDRESS" },
    };

    private static FakeCudaOptions Driver(string what)
    {
        string[] parts = what.Split(' ');
        return new FakeCudaOptions
        {
            DriverVersion = what == "old driver" ? 11_080 : 12_080,
            Devices = what switch
            {
                "no device" => [],
                "old device" => [new FakeDevice("Fake T4", 75)],
                "two old devices" => [new FakeDevice("Fake T4", 75), new FakeDevice("Fake V100", 70)],
                "small device" => [new FakeDevice(Bytes: 512 << 10)],
                "full device" => [new FakeDevice(Bytes: 64 << 20) { TakenBytes = 57 << 20 }],
                _ => [new FakeDevice()],
            },
            Fails = name => name == parts[0] ? int.Parse(parts[1]) : 0,
        };
    }

    [Theory, MemberData(nameof(Unusable))]
    public async Task ADeviceThatCantBeUsed_EndsTheStartWithOneLine_OrTheCpuTakesItsPlace(string what, string words)
    {
        using FakeCuda fake = new(Driver(what));
        await using (ModelServer server = await ModelServer.StartAsync(Options))
        {
            Assert.Contains(words, server.Mistake);
            Assert.DoesNotContain('\n', server.Mistake!);
        }
        await using (ModelServer server = await ModelServer.StartAsync(WithFallback))
        {
            Assert.Null(server.Mistake);
            Assert.StartsWith("cpu (", server.Model.Info.Backend);
            Assert.Contains(words, server.Model.WhyNoGpu);
            Assert.DoesNotContain("no GPU", server.StartupText()); // a warning has told it
            Assert.Equal(HttpStatusCode.OK, (await server.Complete()).Status);
        }
        await using (ModelServer server = await ModelServer.StartAsync(Options with { Backend = "auto" }))
        {
            Assert.Null(server.Mistake);
            Assert.StartsWith("cpu (", server.Model.Info.Backend);
            if (what == "no device") Assert.Null(server.Model.WhyNoGpu);
            else
            {
                Assert.Contains(words, server.Model.WhyNoGpu);
                Assert.Contains($"         and no GPU: {server.Model.WhyNoGpu}", server.StartupText());
            }
        }
        if (what.EndsWith(" 700")) Assert.Equal(1, fake.Count("cuDevicePrimaryCtxRelease")); // and it answers no more
        else Assert.DoesNotContain("a context", fake.Leaks);
    }

    [Fact]
    public async Task WithoutADriver_TheStartEndsWithOneLine_OrTheCpuComputes()
    {
        Assert.SkipWhen(File.Exists("/dev/nvidiactl"), "a GPU is here");
        await using (ModelServer server = await ModelServer.StartAsync(Options))
        {
            Assert.Contains("no NVIDIA driver is installed", server.Mistake);
            Assert.Contains("--backend-fallback cpu", server.Mistake);
        }
        await using (ModelServer server = await ModelServer.StartAsync(WithFallback))
            Assert.Contains("no NVIDIA driver is installed", server.Model.WhyNoGpu);
        await using (ModelServer server = await ModelServer.StartAsync(Options with { Backend = "auto" }))
            Assert.Null(server.Model.WhyNoGpu);
        await using (ModelServer server = await ModelServer.StartAsync(Options with { Backend = "auto", Device = "0" }))
        {
            Assert.Contains("no NVIDIA driver is installed", server.Mistake);
            Assert.Contains("--device asks for a GPU: leave it out for the CPU", server.Mistake);
        }
        // Where the CPU can't either, why it was tried is told too.
        ServerOptions large = WithFallback with { KvCacheBytes = 1L << 45 };
        await using (ModelServer server = await ModelServer.StartAsync(large))
        {
            Assert.Contains("a KV cache of 33554432 MiB was asked for", server.Mistake);
            Assert.Contains("The CPU was tried because no GPU can be used: libcuda", server.Mistake);
        }
        ServerOptions fp8 = Options with { Backend = "auto", KvCacheType = Native.Kernels.DType.FP8 };
        await using (ModelServer server = await ModelServer.StartAsync(fp8))
        {
            Assert.Contains("fp8 needs an NVIDIA GPU of compute capability 8.9", server.Mistake);
            Assert.Contains("no GPU can be used: libcuda", server.Mistake);
        }
    }

    [Theory]
    [InlineData("1", "Fake L4, device 1")]
    [InlineData("2", "Fake H200, device 2")]
    [InlineData("h200", "Fake H200, device 2")]
    [InlineData("L4", "Fake L4, device 1")]
    [InlineData("200", "Fake H200, device 2")]
    [InlineData(null, "Fake L4, device 1")]
    public async Task ADeviceIsChosenByNumberOrName_OrIsTheFirstThatCan(string? choice, string expected)
    {
        using FakeCuda fake = new(new FakeCudaOptions
        {
            Devices = [new("Fake T4", 75), new("Fake L4", 89), new("Fake H200", 90)],
        });
        ServerOptions options = Options with { Backend = choice is null ? "auto" : "cuda", Device = choice };
        await using ModelServer server = await ModelServer.StartAsync(options);
        Assert.Null(server.Mistake);
        Assert.Contains(expected, server.Model.Info.Backend);
        Assert.Equal(HttpStatusCode.OK, (await server.Complete(tokens: 1)).Status);
    }

    [Theory]
    [InlineData("3", "which is no device's number or part of its name")]
    [InlineData("-1", "which is no device's number or part of its name")]
    [InlineData("A100", "which is no device's number or part of its name")]
    [InlineData("fake", "which is a part of several names")]
    public async Task ADeviceThatIsNotThere_IsRefusedWithThoseThatAre(string choice, string words)
    {
        using FakeCuda fake = new(new FakeCudaOptions { Devices = [new("Fake L4", 89), new("Fake H200", 90)] });
        foreach (ServerOptions options in (ServerOptions[])[Options, WithFallback, Options with { Backend = "auto" }])
        {
            await using ModelServer server = await ModelServer.StartAsync(options with { Device = choice });
            Assert.Equal($"--device is '{choice}', {words}{(words.Contains("several")
                ? ": take a number, or more of the name" : "")}. There are: 0 is Fake L4, 1 is Fake H200.",
                server.Mistake);
        }
    }

    [Fact]
    public async Task ADeviceThatBreaksInMidStream_WithoutFallback_IsTold_AndTheProcessLives()
    {
        using FakeCuda fake = new();
        await using ModelServer server = await ModelServer.StartAsync(Options);
        Health.HealthClient health = new(server.Channel);
        string end = await BreakInMidStream(fake, server);
        Assert.Contains("\"code\":\"device_lost\"", end);
        Assert.Contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)", end);
        (HttpStatusCode status, string text) = await server.Complete();
        Assert.Equal(HttpStatusCode.ServiceUnavailable, status);
        Assert.Contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)", text);
        Assert.Equal(HttpStatusCode.ServiceUnavailable, (await server.Get("/readyz")).Status);

        await RunningServer.Until(() => server.Server.Host.State == Native.Server.Serving.HostState.Broken, "noticed");
        foreach (string path in (string[])["/readyz", "/health", "/healthz"])
        {
            (status, text) = await server.Get(path);
            Assert.Equal(HttpStatusCode.ServiceUnavailable, status);
            Assert.StartsWith("broken: cu", text);
        }
        (status, text) = await server.Complete();
        Assert.Equal(HttpStatusCode.ServiceUnavailable, status);
        Assert.Contains("\"code\":\"device_lost\"", text);
        RpcException refused = await Assert.ThrowsAsync<RpcException>(async () =>
        {
            using AsyncServerStreamingCall<GenerateResponse> call =
                server.Inference.Generate(new GenerateRequest { Text = "y" }, cancellationToken: Token);
            await call.ResponseStream.MoveNext(Token);
        });
        Assert.Equal(StatusCode.Unavailable, refused.StatusCode);
        Assert.Contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)", refused.Status.Detail);
        Assert.Equal(HealthCheckResponse.Types.ServingStatus.NotServing,
            (await health.CheckAsync(new HealthCheckRequest(), cancellationToken: Token)).Status);
        Assert.Contains("native_server_state{state=\"broken\"} 1\n", (await server.Get("/metrics")).Text);
        Assert.Equal("broken", (await server.Inference.GetServerInfoAsync(new(), cancellationToken: Token)).State);
        await server.AllBlocksFree();
        Assert.True(await server.Server.DrainAsync());
    }

    [Fact]
    public async Task ADeviceThatBreaksInMidStream_WithFallback_IsFollowedByTheCpu()
    {
        await using ModelServer cpu = await ModelServer.StartAsync(Options with { Backend = "cpu" });
        (HttpStatusCode, string) expected = await cpu.Complete(tokens: 12);
        using FakeCuda fake = new();
        await using ModelServer server = await ModelServer.StartAsync(WithFallback);
        Assert.Equal(expected, await server.Complete(tokens: 12)); // its blocks are cached, and lost with the device
        string end = await BreakInMidStream(fake, server);
        Assert.Contains("\"code\":\"device_lost\"", end);
        await RunningServer.Until(() => server.Server.Host.IsServing, "the CPU takes its place");
        Assert.StartsWith("cpu (", server.Model.Info.Backend);
        Assert.Equal(expected, await server.Complete(tokens: 12));
        Assert.Equal((HttpStatusCode.OK, "ready\n"), await server.Get("/readyz"));
        string metrics = (await server.Get("/metrics")).Text;
        Assert.Contains("backend=\"cpu (", metrics);
        Assert.Contains("native_failed_steps_total 1\n", metrics); // counters go on
        await server.AllBlocksFree();
        Assert.Equal(1, fake.Count("cuDevicePrimaryCtxRelease")); // the rest ends with the context
    }

    [Fact]
    public async Task WhereTheCpuCantTakeItsPlaceEither_BothReasonsAreTold()
    {
        string copy = Path.Combine(Path.GetTempPath(), $"{Guid.NewGuid():N}.gguf");
        File.Copy(Options.Model!, copy);
        using FakeCuda fake = new();
        await using ModelServer server = await ModelServer.StartAsync(WithFallback with { Model = copy });
        File.Delete(copy);
        await BreakInMidStream(fake, server);
        await RunningServer.Until(() => server.Server.Host.State == Native.Server.Serving.HostState.Broken, "noticed");
        string text = (await server.Get("/readyz")).Text;
        Assert.Contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)", text);
        Assert.Contains(copy, text);
    }

    private static bool Launches(string call) => call is "cuLaunchKernelEx" or "cuGraphLaunch";

    /// <summary>Breaks the device while an answer is streamed, and reads to the answer's end.</summary>
    private static async Task<string> BreakInMidStream(FakeCuda fake, ModelServer server)
    {
        using HttpResponseMessage response = await server.Post(Story);
        using Stream stream = await response.Content.ReadAsStreamAsync(Token);
        await stream.ReadExactlyAsync(new byte[100], Token);
        fake.Options = fake.Options with { Fails = name => Launches(name) ? 700 : 0 };
        using StreamReader reader = new(stream);
        return await reader.ReadToEndAsync(Token);
    }

    /// <summary>A step that fails alone, as before there were devices.</summary>
    [Fact]
    public async Task AStepThatFailsAlone_EndsItsRequests_AndNobodyElse()
    {
        using FakeCuda fake = new();
        await using ModelServer server = await ModelServer.StartAsync(WithFallback);
        fake.Options = fake.Options with { Fails = name => name == "cuLaunchKernelEx" ? 1 : 0 };
        (HttpStatusCode status, string text) = await server.Complete();
        Assert.Equal(HttpStatusCode.InternalServerError, status);
        Assert.Contains("step_failed", text);
        fake.Options = fake.Options with { Fails = null };
        Assert.Equal(HttpStatusCode.OK, (await server.Complete()).Status);
        Assert.StartsWith("cuda (", server.Model.Info.Backend);
        await server.AllBlocksFree();
    }

    /// <summary>Each of the driver's functions fails once, later or for ever: at the start and under load.</summary>
    [Theory]
    [InlineData((int)CudaResult.InvalidValue)]
    [InlineData((int)CudaResult.OutOfMemory)]
    [InlineData((int)CudaResult.LaunchFailed)]
    public async Task WhateverCallFails_TheProcessLives_OrEndsAtTheStartWithOneLine(int result)
    {
        string[] calls;
        using (FakeCuda fake = new())
        {
            await using (ModelServer server = await ModelServer.StartAsync(Options)) await server.Complete(tokens: 1);
            calls = [.. fake.Calls.Keys];
        }
        Assert.True(calls.Length > 20, "the driver's functions are called");
        foreach (string call in calls)
        {
            using (FakeCuda fake = new(new FakeCudaOptions { Fails = name => name == call ? result : 0 }))
            {
                await using ModelServer server = await ModelServer.StartAsync(Options);
                if (server.Mistake is { } mistake)
                {
                    Assert.Contains(call, mistake);
                    Assert.DoesNotContain('\n', mistake);
                }
                else await server.Complete(tokens: 1);
            }
            using (FakeCuda fake = new())
            {
                await using ModelServer server = await ModelServer.StartAsync(Options);
                fake.Options = fake.Options with { Fails = name => name == call ? result : 0 };
                (HttpStatusCode status, string text) = await server.Complete(tokens: 2);
                Assert.True(status is HttpStatusCode.OK or HttpStatusCode.InternalServerError
                    or HttpStatusCode.ServiceUnavailable, $"{call}: {status}, {text}");
                fake.Options = fake.Options with { Fails = null };
                bool isBroken = server.Model.Engine.Fault is not null;
                (status, text) = await server.Complete(tokens: 2);
                Assert.True(status == (isBroken ? HttpStatusCode.ServiceUnavailable : HttpStatusCode.OK),
                    $"{call}: {status}, {text}");
                Assert.Equal(HttpStatusCode.OK, (await server.Get("/metrics")).Status);
                await server.AllBlocksFree();
            }
        }
    }
}
