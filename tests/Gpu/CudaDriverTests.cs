using System.Runtime.InteropServices;
using System.Text;
using Native.Kernels.Cuda;
using Native.Tests.Gpu.Machine;

namespace Native.Tests.Gpu;

/// <summary>The driver's seam over a driver that queues: each fault is one clear error, and nothing runs before a wait.
/// </summary>
[Collection(nameof(FakeCuda))] // there is one at a time
public sealed unsafe class CudaDriverTests
{
    /// <summary>y[i] = a * x[i] + y[i] over n floats, 64 threads a block.</summary>
    private const string Axpy = """
        .version 7.4
        .target sm_80
        .address_size 64
        .visible .entry axpy(.param .u64 x, .param .u64 y, .param .f32 a, .param .u32 n)
        {
        .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .f32 %f<9>; .reg .pred %p1;
        mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mad.lo.u32 %r4, %r1, %r2, %r3;
        ld.param.u32 %r5, [n]; setp.ge.u32 %p1, %r4, %r5; @%p1 ret;
        ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; ld.param.f32 %f1, [a];
        mul.wide.u32 %rd3, %r4, 4; add.s64 %rd1, %rd1, %rd3; add.s64 %rd2, %rd2, %rd3;
        ld.global.f32 %f2, [%rd1]; ld.global.f32 %f3, [%rd2]; fma.rn.f32 %f3, %f1, %f2, %f3; st.global.f32 [%rd2], %f3;
        ret;
        }
        """;

    [Fact]
    public void WithoutADriver_TheLibraryIsNamed()
    {
        bool isHere = NativeLibrary.TryLoad("libcuda.so.1", out _);
        Assert.SkipWhen(isHere || OperatingSystem.IsWindows(), "a driver is here");
        CudaException error = Assert.Throws<CudaException>(() => CudaApi.LoadDriver());
        Assert.Contains("libcuda.so.1 is not there", error.Message, StringComparison.Ordinal);
        Assert.Contains("Install a driver of CUDA 12.0", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void ALibraryWithoutTheFunctions_IsToldAsTooOld()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "libc.so.6 is Linux's");
        nint library = NativeLibrary.Load("libc.so.6");
        CudaException error = Assert.Throws<CudaException>(() => CudaApi.Load(library, "libc.so.6"));
        Assert.Contains("libc.so.6 has no cuInit", error.Message, StringComparison.Ordinal);
        Assert.Contains("12.0", error.Message, StringComparison.Ordinal);
    }

    public static TheoryData<string, string[]> Devices => new()
    {
        { "old driver", ["CUDA 11.8", "12.0 (driver 525.60) or later"] },
        { "no device", ["CUDA_ERROR_NO_DEVICE (100)", "nvidia-smi"] },
        { "second of one", ["there is no device 1", "0 is Fake H200"] },
        { "old device", ["Fake T4 (device 0) has compute capability 7.5", "8.0 (Ampere) or later"] },
        { "no pools", ["has no memory pools"] },
        { "cuInit 804", ["cuInit failed with CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE (804)", "Update"] },
        { "cuInit 34", ["CUDA_ERROR_STUB_LIBRARY (34)", "LD_LIBRARY_PATH"] },
        { "cuDevicePrimaryCtxRetain 46", ["CUDA_ERROR_DEVICE_UNAVAILABLE (46)", "Another process"] },
        { "cuInit 12345", ["an error that is not known here (12345)"] },
    };

    [Theory, MemberData(nameof(Devices))]
    public void ADeviceThatCantBeUsed_IsExplained(string what, string[] words)
    {
        string[] parts = what.Split(' ');
        using FakeCuda fake = new(new FakeCudaOptions
        {
            DriverVersion = what == "old driver" ? 11_080 : 12_080,
            Devices = what switch
            {
                "no device" => [],
                "old device" => [new FakeDevice("Fake T4", 75)],
                "no pools" => [new FakeDevice() { HasPools = false }],
                _ => [new FakeDevice()],
            },
            Fails = name => parts[0] == name ? int.Parse(parts[1]) : 0,
        });
        CudaException error = Assert.Throws<CudaException>(() => CudaDevice.Open(what == "second of one" ? 1 : 0));
        Assert.All(words, word => Assert.Contains(word, error.Message, StringComparison.Ordinal));
    }

    [Fact]
    public void ADeviceIsChosenByItsNumber()
    {
        using FakeCuda fake = new(new FakeCudaOptions { Devices = [new("A", 75), new("B", 89), new("C", 90)] });
        using (CudaDevice device = CudaDevice.Open(2))
        {
            Assert.Equal(("C", 90, 2, 132), (device.Name, device.Capability, device.Index, device.Multiprocessors));
            using CudaDevice second = CudaDevice.Open(2);
            Assert.Equal(device.Memory, second.Memory);
        }
        Assert.Empty(fake.Leaks);
    }

    [Fact]
    public void AKernelRunsOverQueuedCopies_OnWhateverThreadAsks()
    {
        using FakeCuda fake = new();
        using (Fixture fixture = new(1000))
        {
            fixture.Upload(i => i, i => 1);
            Thread other = new(() => fixture.Launch(2));
            other.Start();
            other.Join();
            fixture.Download();
            Assert.Equal(0, fake.Count("cuStreamSynchronize"));
            Assert.Equal(0xcdcdcdcd, BitConverter.SingleToUInt32Bits(fixture.Result[5])); // nothing ran yet
            fixture.Device.Wait();
            Assert.Equal(Enumerable.Range(0, 1000).Select(i => 2f * i + 1), fixture.Result.ToArray());
            Assert.Equal((2 * 4000L, 4000L), (fake.BytesUploaded, fake.BytesDownloaded));
            Assert.Equal((1, 3 * 125L), (fake.Kernels["axpy"].Launches, fake.Kernels["axpy"].Counters.Sectors));
        }
        Assert.Null(fake.Caught);
        Assert.Empty(fake.Leaks);
    }

    /// <summary>What a GPU would hide most of the time.</summary>
    [Fact]
    public void APinnedBufferThatIsUsedAgainBeforeTheWait_Shows()
    {
        using FakeCuda fake = new();
        using Fixture fixture = new(64);
        fixture.Upload(i => i, i => 0);
        fixture.Fill(i => -1, i => -1); // too early
        fixture.Launch(1);
        fixture.Download();
        fixture.Device.Wait();
        Assert.Equal(-2, fixture.Result[7]);
    }

    [Fact]
    public void ACopyOfMemoryThatIsNotPinned_OrOutsideOfAnAllocation_IsRefused()
    {
        using FakeCuda fake = new();
        using Fixture fixture = new(64);
        float[] managed = new float[64];
        fixed (float* memory = managed)
        {
            nint pointer = (nint)memory;
            Assert.Contains("cuMemcpyHtoDAsync failed with CUDA_ERROR_INVALID_VALUE (1)",
                Assert.Throws<CudaException>(() => fixture.Device.CopyToDevice(fixture.X, pointer, 256)).Message,
                StringComparison.Ordinal);
        }
        Assert.Throws<CudaException>(() => fixture.Device.Clear(fixture.X, 64 * 4 + 1));
        Assert.Null(fixture.Device.Fault); // neither is the end of the device
    }

    [Fact]
    public void OutOfMemory_SaysWhatWasAsked_WhatIsFree_AndWhichOptionsHelp()
    {
        using FakeCuda fake = new(new FakeCudaOptions { Devices = [new FakeDevice(Bytes: 64 << 20)] });
        using CudaDevice device = CudaDevice.Open(0);
        ulong first = device.Allocate(16 << 20, "the weights");
        CudaException error = Assert.Throws<CudaException>(() => device.Allocate(96 << 20, "the KV cache"));
        Assert.Contains("cuMemAllocAsync failed with CUDA_ERROR_OUT_OF_MEMORY (2): 96 MiB for the KV cache, and 48 of "
            + "64 MiB are free on Fake H200.", error.Message, StringComparison.Ordinal);
        Assert.Contains("--kv-cache-memory", error.Message, StringComparison.Ordinal);
        Assert.False(error.IsSticky);
        device.Free(first);
        device.Wait();
        device.Free(device.Allocate(60 << 20, "what fits now"));
    }

    [Theory]
    [InlineData(".version 8.7", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION (222)", 12_040)]
    [InlineData(".target sm_90a", "CUDA_ERROR_NO_BINARY_FOR_GPU (209)", 12_080)]
    [InlineData("frobnicate", "CUDA_ERROR_INVALID_PTX (218)", 12_080)]
    public void PtxThatTheDriverRefuses_IsToldWithItsLog(string change, string words, int driver)
    {
        using FakeCuda fake = new(new FakeCudaOptions { DriverVersion = driver, Devices = [new("Fake L4", 89)] });
        using CudaDevice device = CudaDevice.Open(0);
        string ptx = change.StartsWith(".version") ? Axpy.Replace(".version 7.4", change)
            : change.StartsWith(".target") ? Axpy.Replace(".target sm_80", change) : Axpy.Replace("fma.rn", change);
        byte[] text = Encoding.ASCII.GetBytes(ptx);
        CudaException error = Assert.Throws<CudaException>(() => new CudaModule(device, text, "axpy"));
        Assert.Contains(words, error.Message, StringComparison.Ordinal);
        Assert.Contains("axpy for Fake L4", error.Message, StringComparison.Ordinal);
        if (change == "frobnicate") Assert.Contains("PTX line", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AKernelThatGoesWrong_BreaksTheDevice_NotTheProcess()
    {
        using FakeCuda fake = new();
        using (Fixture fixture = new(64))
        {
            fixture.Upload(i => i, i => 0);
            fixture.Launch(1, n: 65); // one too many
            CudaException error = Assert.Throws<CudaException>(fixture.Device.Wait);
            Assert.Contains("cuStreamSynchronize failed with CUDA_ERROR_ILLEGAL_ADDRESS (700)", error.Message,
                StringComparison.Ordinal);
            Assert.True(error.IsSticky);
            Assert.Equal(FaultKind.OutOfBounds, Assert.IsType<GpuFault>(fake.Caught).Kind);
            Assert.Equal(error.Message, fixture.Device.Fault!.Message);
            Assert.Contains("(700)", Assert.Throws<CudaException>(() => fixture.Device.Allocate(1, "more")).Message,
                StringComparison.Ordinal);
            fixture.IsBroken = true;
        }
    }

    [Theory]
    [InlineData(1025, 0, "CUDA_ERROR_INVALID_VALUE (1)")]
    [InlineData(64, 100_000, "CUDA_ERROR_INVALID_VALUE (1)")]
    public void ALaunchThatIsNone_IsRefusedWithItsSizes(int threads, int shared, string words)
    {
        using FakeCuda fake = new();
        using Fixture fixture = new(64);
        fixture.Upload(i => i, i => i);
        CudaException error = Assert.Throws<CudaException>(() => fixture.Launch(1, threads: threads, shared: shared));
        Assert.Contains(words, error.Message, StringComparison.Ordinal);
        Assert.Contains($"1 x 1 x 1 blocks of {threads} x 1 x 1 threads, {shared} bytes", error.Message,
            StringComparison.Ordinal);
        fixture.Function.AllowShared(100_000);
        if (shared > 0) fixture.Launch(1, threads: threads, shared: shared);
        Assert.Throws<CudaException>(() => fixture.Function.AllowShared(300_000));
    }

    [Fact]
    public void AModuleUnloadedBeforeItsKernelRan_Shows()
    {
        using FakeCuda fake = new();
        using Fixture fixture = new(64);
        fixture.Upload(i => i, i => i);
        fixture.Launch(1);
        fixture.UnloadEarly();
        Assert.Throws<CudaException>(fixture.Device.Wait);
        Assert.Contains("after its module was unloaded", fake.Caught!.Message, StringComparison.Ordinal);
        fixture.IsBroken = true;
    }

    [Fact]
    public void AGraph_DoesAgainWhatWasRecorded_ByOneCall()
    {
        using FakeCuda fake = new();
        using (Fixture fixture = new(64))
        {
            fixture.Upload(i => i, i => 0);
            using CudaGraph graph = CudaGraph.Record(fixture.Device, () =>
            {
                fixture.Launch(1);
                fixture.Launch(2);
                fixture.Download();
            });
            int launches = fake.Count("cuLaunchKernelEx");
            for (int i = 0; i < 3; i++) graph.Launch();
            fixture.Device.Wait();
            Assert.Equal(Enumerable.Range(0, 64).Select(i => 9f * i), fixture.Result.ToArray());
            Assert.Equal((launches, 3, 6), (fake.Count("cuLaunchKernelEx"), fake.Count("cuGraphLaunch"),
                fake.Kernels["axpy"].Launches));
            // What can't be recorded is told, and the stream is as before.
            Assert.Throws<CudaException>(() => CudaGraph.Record(fixture.Device, fixture.Device.Wait));
            Assert.Throws<CudaException>(() => CudaGraph.Record(fixture.Device,
                () => fixture.Device.Allocate(16, "memory that would be the graph's")));
            fixture.Launch(1);
            fixture.Device.Wait();
        }
        Assert.Empty(fake.Leaks);
    }

    [Fact]
    public void AnEvent_IsWaitedFor_WithoutWhatWasQueuedBehind()
    {
        using FakeCuda fake = new();
        using Fixture fixture = new(64);
        using CudaEvent first = new(fixture.Device, timed: true), second = new(fixture.Device, timed: true);
        fixture.Upload(i => i, i => 0);
        first.Record();
        fixture.Launch(1);
        fixture.Download();
        second.Record();
        fixture.Launch(1);
        second.Wait();
        Assert.Equal((3, 1), ((int)fixture.Result[3], fake.Kernels["axpy"].Launches));
        Assert.True(second.MillisecondsSince(first) > 0);
        fixture.Device.Wait();
    }

    /// <summary>x and y of n floats on the device and in pinned memory, and the kernel.</summary>
    private sealed class Fixture : IDisposable
    {
        private readonly int _n;
        private readonly nint _pinned;
        private readonly ulong _y;
        private readonly CudaModule _module;

        public Fixture(int n)
        {
            _n = n;
            Device = CudaDevice.Open(0);
            X = Device.Allocate(n * 4, "x");
            _y = Device.Allocate(n * 4, "y");
            _pinned = Device.AllocatePinned(3 * n * 4);
            _module = new CudaModule(Device, Encoding.ASCII.GetBytes(Axpy), "axpy");
            Function = _module.Function("axpy");
        }

        public CudaDevice Device { get; }

        public CudaFunction Function { get; }

        public ulong X { get; }

        public bool IsBroken { get; set; }

        public Span<float> Result => new((float*)_pinned + 2 * _n, _n);

        public void Fill(Func<int, float> x, Func<int, float> y)
        {
            for (int i = 0; i < _n; i++) ((float*)_pinned)[i] = x(i);
            for (int i = 0; i < _n; i++) ((float*)_pinned)[_n + i] = y(i);
        }

        public void Upload(Func<int, float> x, Func<int, float> y)
        {
            Fill(x, y);
            Device.CopyToDevice(X, _pinned, _n * 4);
            Device.CopyToDevice(_y, _pinned + _n * 4, _n * 4);
        }

        public void Launch(float a, int? n = null, int threads = 64, int shared = 0)
        {
            Device.Enter();
            ulong x = X, y = _y;
            int count = n ?? _n;
            void** arguments = stackalloc void*[] { &x, &y, &a, &count };
            Function.Launch(((uint)(count + 63) / 64, 1, 1), ((uint)threads, 1, 1), shared, arguments);
        }

        public void UnloadEarly() => _module.Dispose();

        public void Download() => Device.CopyToHost(_pinned + 2 * _n * 4, _y, _n * 4);

        public void Dispose()
        {
            if (!IsBroken)
            {
                Device.Wait();
                _module.Dispose();
                Device.Free(X);
                Device.Free(_y);
                Device.Wait();
                Device.FreePinned(_pinned);
            }
            Device.Dispose();
        }
    }
}
