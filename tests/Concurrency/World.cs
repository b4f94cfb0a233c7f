using System.Diagnostics;
using Native.Bench.Common;
using Native.Kernels;
using Native.Kernels.Sampling;

namespace Native.Tests.Concurrency;

/// <summary>Where a scenario runs: modelled threads, or the machine's.</summary>
public abstract class World
{
    /// <summary>Runs something beside.</summary>
    public abstract void Start(Action body);

    /// <summary>Waits for all that was started.</summary>
    public abstract void JoinAll();

    /// <summary>Waits for what is no shared variable of the model, but a task or the like.</summary>
    public abstract void WaitUntil(Func<bool> condition);

    /// <summary>Lets others run, because the caller can't go on.</summary>
    public abstract void Yield();

    /// <summary>What must hold.</summary>
    public void Check(bool holds, string belief)
    {
        if (!holds) throw new InvalidOperationException($"not so: {belief}");
    }

    /// <summary>A model that says token 1.</summary>
    public IModelRunner NewRunner() => new OneToken();

    private sealed class OneToken : IModelRunner
    {
        public ModelInfo Info { get; } = NoModel.Info(
            "one", vocabulary: 8, length: 64, blockSize: 4, blocks: 64, tokens: 64, sequences: 4);

        public void Launch(in Batch batch)
        {
        }

        public void Collect(
            Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default) =>
            sampled.Fill(new SampledToken(1, 0));

        public void Dispose()
        {
        }
    }
}

/// <summary>Threads that Coyote schedules, and memory that is weak.</summary>
internal sealed class ModelWorld : World
{
    private readonly Execution _execution = Execution.Current = new Execution();

    public override void Start(Action body) => _execution.StartJoined(body);

    public override void JoinAll() => _execution.JoinAll();

    public override void WaitUntil(Func<bool> condition) => _execution.WaitUntil(condition);

    public override void Yield() => _execution.Yield();
}

/// <summary>The machine's threads and memory. At every access to a shared variable a thread may lose time.</summary>
internal sealed class StressWorld : World
{
    /// <summary>The longest that a scenario may stand still.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    private readonly List<Thread> _threads = [];
    private Exception? _failure;

    public override void Start(Action body)
    {
        Thread thread = new(() =>
        {
            try
            {
                body();
            }
            catch (Exception e)
            {
                _failure = e;
            }
        })
        { IsBackground = true };
        _threads.Add(thread);
        thread.Start();
    }

    public override void JoinAll()
    {
        foreach (Thread thread in _threads)
            if (!thread.Join(Patience)) throw new TimeoutException("a thread stands still");
        if (_failure is { } failure) throw new InvalidOperationException(failure.Message, failure);
        _threads.Clear();
    }

    public override void WaitUntil(Func<bool> condition)
    {
        long start = Stopwatch.GetTimestamp();
        SpinWait spin = default;
        while (!condition())
        {
            if (Stopwatch.GetElapsedTime(start) > Patience) throw new TimeoutException("a wait has no end");
            spin.SpinOnce(sleep1Threshold: 1000);
        }
    }

    public override void Yield() => Thread.Yield();
}
