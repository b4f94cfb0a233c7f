using System.Runtime.ExceptionServices;
using Native.Kernels;
using Native.Kernels.Cuda;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Models;
using Native.Kernels.Sampling;
using Native.Tests.Kernels;

namespace Native.Tests.Gpu;

/// <summary>Each of the driver's calls fails once, at each place of some steps: that step is none, and what was and
/// what comes is as if nothing had been.</summary>
[Collection(nameof(FakeCuda))] // there is one at a time
public sealed class CudaFaultTests : IDisposable
{
    private const int BlockSize = 16;

    private readonly FakeCuda _fake = new();

    private static CudaCompanyTests.Shape Shape => new("llama", 32, 2, 1, 16, 32, 67, TensorType.Q8_0)
    { Layers = 1, Up = TensorType.Q4_0, Sequences = 4, Prompt = 1850 };

    /// <summary>Steps of some sequences, each built anew where it is asked for, with tokens that are told.</summary>
    private static Action<BatchBuffers>[] Steps
    {
        get
        {
            List<Action<BatchBuffers>> steps = [];
            int[] lengths = new int[3];
            void Decodes(bool penalized = false)
            {
                int[] at = [.. lengths];
                steps.Add(buffers => AddDecodes(buffers, at, penalized));
                for (int s = 0; s < 3; s++) lengths[s]++;
            }
            void Prompt(int s, int count, bool hidden = false)
            {
                lengths[s] = count;
                steps.Add(buffers =>
                {
                    int row = buffers.AddSequence([.. Enumerable.Range(1, count)], 0, Blocks(s, count), s);
                    buffers.AddSample(row + count - 1, new RowSampling { Position = count });
                    for (int i = 0; hidden && i < count; i++) buffers.AddHidden(row + i);
                });
            }
            for (int s = 0; s < 3; s++) Prompt(s, 3 + s);
            for (int i = 0; i < 4; i++) Decodes();
            Prompt(2, 40, hidden: true);
            for (int i = 0; i < 3; i++) Decodes();
            for (int i = 0; i < 3; i++) Decodes(penalized: true);
            for (int i = 0; i < 2; i++) Decodes();
            return [.. steps];
        }
    }

    /// <summary>A sequence that begins anew has others, so that a step that is run again finds its own.</summary>
    private static int[] Blocks(int s, int length) => [.. Enumerable.Range(length < 40 ? 4 * s : 12,
        (length + BlockSize - 1) / BlockSize)];

    private static void AddDecodes(BatchBuffers buffers, int[] lengths, bool penalized)
    {
        for (int s = 0; s < 3; s++)
        {
            int row = buffers.AddSequence(
                [5 + s + lengths[s]], lengths[s], Blocks(s, lengths[s] + 1), s, decodes: true);
            RowSampling sampling = new() { Position = lengths[s] + 1, Alternatives = penalized ? 20 : 0 };
            if (penalized)
            {
                sampling.RepetitionPenalty = 1.5f;
                Enumerable.Range(4, lengths[s]).ToArray().CopyTo(buffers.AddHistory(ref sampling, 2, lengths[s]));
            }
            buffers.AddSample(row, sampling);
        }
    }

    /// <summary>Runs all steps; one that fails is run again, and so is one that was in flight where a collection
    /// failed.</summary>
    private List<SampledToken> Run(ModelRunner runner, int inFlight, out int failures)
    {
        Action<BatchBuffers>[] steps = Steps;
        List<SampledToken> output = [];
        BatchBuffers buffers = new(runner.Info);
        Queue<(int Rows, int Alternatives, int Hidden)> sizes = [];
        failures = 0;
        for (int next = 0; next < steps.Length || sizes.Count > 0;)
        {
            int collected = next - sizes.Count;
            try
            {
                if (next < steps.Length && sizes.Count < inFlight)
                {
                    buffers.Begin();
                    steps[next](buffers);
                    runner.Launch(buffers.Batch);
                    sizes.Enqueue((buffers.Rows, buffers.AlternativeCount, buffers.Batch.HiddenRows.Length));
                    next++;
                    continue;
                }
                (int rows, int alternatives, int hidden) = sizes.Peek();
                SampledToken[] sampled = new SampledToken[rows];
                try
                {
                    runner.Collect(sampled, new TokenLogprob[alternatives],
                        new float[hidden * runner.Info.HiddenSize]);
                }
                catch
                {
                    sizes.Clear(); // none is in flight
                    next = collected;
                    throw;
                }
                sizes.Dequeue();
                output.AddRange(sampled);
            }
            catch (CudaException) when (failures++ < 2)
            {
            }
        }
        return output;
    }

    public static TheoryData<string> Names => ["cuCtxSetCurrent", "cuMemAllocAsync", "cuMemFreeAsync", "cuMemHostAlloc",
        "cuMemFreeHost", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemsetD8Async", "cuStreamSynchronize",
        "cuStreamBeginCapture", "cuStreamEndCapture", "cuEventRecord", "cuEventSynchronize",
        "cuGraphInstantiateWithFlags", "cuGraphLaunch", "cuGraphExecDestroy", "cuGraphDestroy", "cuLaunchKernelEx"];

    [Theory, MemberData(nameof(Names))]
    public void ACallThatFailsOnce_FailsItsStepAlone(string name)
    {
        using TemporaryFile file = new(Shape.File(seed: 1));
        for (int inFlight = 1; inFlight <= 2; inFlight++)
        {
            List<SampledToken>? expected = null;
            int calls = 1, stride = 1;
            for (int fails = 0; fails <= calls; fails += stride)
            {
                _fake.Options = _fake.Options with { Fails = null };
                using ModelRunner runner = CudaCompanyTests.Open(file.Path, new CudaBackend(), Shape);
                int before = _fake.Count(name), failing = fails;
                _fake.Options = _fake.Options with
                {
                    Fails = call => failing > 0 && call == name && _fake.Count(name) - before == failing
                        ? call == "cuMemAllocAsync" ? 2 : 1 : 0,
                };
                List<SampledToken> output = Run(runner, inFlight, out int failures);
                _fake.Options = _fake.Options with { Fails = null };
                if (fails == 0)
                {
                    expected = output;
                    calls = _fake.Count(name) - before;
                    stride = Math.Max(1, calls / 6);
                }
                Assert.True(_fake.Caught is null, $"{name} {fails} of {calls}: {_fake.Caught}");
                Assert.True(expected!.SequenceEqual(output),
                    $"{name} {fails} of {calls}, {inFlight} in flight, {failures} failures");
            }
        }
    }

    /// <summary>A step of a long context, or one with penalties, finds no memory at its n-th try or later, and is given
    /// up. What was recorded before names no memory that is gone, and steps that need no more than before go on.
    /// </summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void AStepThatFindsNoMemory_LeavesSmallerOnesRight(bool penalized)
    {
        using TemporaryFile file = new(Shape.File(seed: 1));
        SampledToken[]? expected = null;
        bool failed = true;
        for (int fails = 0; failed; fails++)
        {
            using ModelRunner runner = CudaCompanyTests.Open(file.Path, new CudaBackend(), Shape);
            BatchBuffers buffers = new(runner.Info);
            SampledToken[] Launch(int step)
            {
                buffers.Begin();
                int length = 3 + Math.Min(step, 4); // the last is computed again, so it does not matter whether it was
                if (step != 5 || penalized) AddDecodes(buffers, [length, length, length], step == 5);
                else buffers.AddSample(buffers.AddSequence([5], 1800, Blocks(2, 1801), 3, true), new RowSampling());
                runner.Launch(buffers.Batch);
                SampledToken[] sampled = new SampledToken[buffers.Rows];
                runner.Collect(sampled, new TokenLogprob[buffers.AlternativeCount]);
                return sampled;
            }
            for (int step = 0; step < 5; step++) Launch(step);
            int before = _fake.Count("cuMemAllocAsync");
            failed = fails == 0;
            _fake.Options = _fake.Options with
            {
                Fails = call => fails > 0 && call == "cuMemAllocAsync"
                    && _fake.Count(call) - before >= fails ? 2 : 0,
            };
            try
            {
                Launch(5);
            }
            catch (CudaException)
            {
                failed = true;
            }
            _fake.Options = _fake.Options with { Fails = null };
            SampledToken[] output = [.. Launch(6), .. Launch(7), .. Launch(8)];
            expected ??= output;
            Assert.Equal(expected, output);
            Assert.Null(_fake.Caught);
            Assert.True(fails > 0 || _fake.Count("cuMemAllocAsync") > before, "nothing grew");
        }
    }

    /// <summary>The runtime gives a thread's number to another once it has ended.</summary>
    [Fact]
    public void AThreadWithANumberThatAnotherHad_GetsTheContextToo()
    {
        using CudaDevice device = CudaDevice.Open(0);
        Exception? error = null;
        bool met = false;
        int number = Run(() => device.Free(device.Allocate(16, "a test")));
        for (int i = 0; i < 200 && !met; i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
            Run(() =>
            {
                if (Environment.CurrentManagedThreadId != number) return;
                met = true;
                device.Free(device.Allocate(16, "a test"));
            });
        }
        Assert.SkipUnless(met, "no thread had the number");
        device.Wait();

        int Run(Action action)
        {
            Thread thread = new(() =>
            {
                try
                {
                    action();
                }
                catch (Exception e)
                {
                    error = e;
                }
            });
            thread.Start();
            thread.Join();
            if (error is not null) ExceptionDispatchInfo.Throw(error);
            return thread.ManagedThreadId;
        }
    }

    public void Dispose() => _fake.Dispose();
}
