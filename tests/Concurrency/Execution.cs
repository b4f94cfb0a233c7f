using Microsoft.Coyote.Random;
using Microsoft.Coyote.Runtime;
using CoyoteTask = Microsoft.Coyote.Rewriting.Types.Threading.Tasks.Task;

namespace Native.Tests.Concurrency;

/// <summary>What a fault does to one place in the source.</summary>
public enum FaultKind
{
    /// <summary>A Volatile access or a fence orders nothing; an Interlocked one is atomic, and orders
    /// nothing.</summary>
    Unordered,

    /// <summary>An Interlocked access is a read and then a write.</summary>
    Torn,

    /// <summary>A condition counts as true whatever it is.</summary>
    Always,

    /// <summary>A condition counts as false whatever it is.</summary>
    Never,
}

/// <summary>One schedule of one scenario, as Coyote chooses it. One runs at a time in the process.</summary>
internal sealed class Execution
{
    private readonly Generator _choices = Generator.Create();
    private readonly List<Task> _tasks = [];
    private const int MostSteps = 3000; // a schedule that goes on longer has no end

    private int _variables;
    private int _running = 1;
    private int _steps;
    private Exception? _failure; // a thread's: the others end with it

    public Execution() => Memory.Thread = new ThreadView();

    public static Execution Current { get; set; } = null!;

    /// <summary>The fault planted, and where.</summary>
    public static (int Site, FaultKind Kind)? Fault { get; set; }

    /// <summary>What all who have passed a full fence have seen.</summary>
    public View Fences { get; } = new();

    public static FaultKind? FaultAt(int site) => Fault is { } fault && fault.Site == site ? fault.Kind : null;

    public int NextVariable() => _variables++;

    /// <summary>Another thread may run here.</summary>
    public void Point()
    {
        if (Steps()) SchedulingPoint.Interleave();
    }

    /// <summary>Others had better run here: this one can't go on.</summary>
    public void Yield()
    {
        if (Steps()) SchedulingPoint.Yield();
    }

    public int Choose(int count) => _choices.NextInteger(count);

    /// <summary>Starts a thread that <see cref="JoinAll"/> waits for.</summary>
    public void StartJoined(Action body) => _tasks.Add(Start(body));

    public Task Start(Action body)
    {
        ThreadView view = new() { Seen = Memory.Thread!.Seen.Copy() };
        _running++;
        Task task = CoyoteTask.Run(() =>
        {
            Memory.Thread = view;
            try
            {
                body();
                Memory.Fence();
            }
            catch (Exception e)
            {
                _failure = e;
                throw;
            }
            finally
            {
                Memory.Thread = null;
                _running--;
            }
        });
        return task;
    }

    public void Join(Task[] tasks)
    {
        CoyoteTask.WaitAll(tasks);
        Memory.Fence();
    }

    public void JoinAll()
    {
        Task[] tasks = [.. _tasks];
        _tasks.Clear();
        Join(tasks);
    }

    public void WaitUntil(Func<bool> condition)
    {
        Point();
        if (!condition()) Operation.PauseUntil(condition);
        Memory.Fence();
    }

    /// <summary>Whether somebody else may run; a schedule that is over ends here.</summary>
    private bool Steps()
    {
        if (Memory.Thread is null) return false;
        if (_failure is { } failure) throw new InvalidOperationException(failure.Message, failure);
        if (++_steps > MostSteps) throw new InvalidOperationException($"no end after {MostSteps} steps");
        return _running > 1;
    }
}

/// <summary>Takes the place of a condition.</summary>
public static class ModelCondition
{
    public static bool Is(bool condition, int site) => Execution.FaultAt(site) switch
    {
        FaultKind.Always => true,
        FaultKind.Never => false,
        _ => condition,
    };
}
