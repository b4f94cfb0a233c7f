using System.Diagnostics;

namespace Native.Scheduling;

/// <summary>Whose turn it is: gives every sequence the key that a tenant's line and every choice of a victim go by, and
/// tells which of two tenants' prompts is first.</summary>
/// <remarks>
/// A key is computed once. By <see cref="SchedulingPolicy.Fcfs"/> it is the arrival. By
/// <see cref="SchedulingPolicy.Slo"/> it is class, then priority, then when the first token is due: at arrival plus the
/// objective for the first token, or plus <see cref="Stretch"/> times what the prompt takes alone where that is more;
/// without an objective at arrival plus both, with <see cref="Unpromised"/> or the deadline for the objective.
/// So a short prompt overtakes a long one that could bear it, a long one is overtaken for a time that grows with its
/// own length only (Medha, Agrawal et al. 2024: slack relative to length), and nobody is overtaken for ever: whoever
/// comes later is due later.
/// </remarks>
/// <param name="options">Policy and objectives.</param>
/// <param name="secondsOfPrompt">What a prompt of so many tokens takes alone.</param>
/// <param name="start">When the engine started, as a <see cref="Stopwatch"/> timestamp.</param>
internal sealed class Ordering(EngineOptions options, Func<int, double> secondsOfPrompt, long start)
{
    /// <summary>A prompt may take this many times as long as alone before it counts as late.</summary>
    public const double Stretch = 2;

    /// <summary>Seconds in which a first token is due that was promised nothing: those with an objective go before it,
    /// and none that comes this much later does.</summary>
    public const double Unpromised = 60;

    private const int OrderBits = 40, DueBits = 54, ClassStart = OrderBits + DueBits + 32;

    /// <summary>The key of a sequence; the smallest is served first.</summary>
    /// <param name="stream">Its request.</param>
    /// <param name="number">Which request of the engine it is, from 0.</param>
    /// <param name="index">Which of the request's choices.</param>
    public UInt128 KeyOf(TokenStream stream, long number, int index)
    {
        ulong order = (ulong)((number * SamplingParams.MaxN) + index) & ((1UL << OrderBits) - 1);
        if (options.Policy == SchedulingPolicy.Fcfs) return order;
        double alone = Stretch * secondsOfPrompt(stream.Prompt.Length);
        double due = SecondsOf(stream.Clock.Arrival - start) + (stream.TtftTicks > 0
            ? Math.Max(SecondsOf(stream.TtftTicks), alone)
            : Math.Min(Unpromised, SecondsOf(stream.Deadline - stream.Clock.Arrival)) + alone);
        ulong microseconds = (ulong)Math.Clamp(due * 1e6, 0, (1L << DueBits) - 1);
        UInt128 rank = ((UInt128)(int)stream.Class << 32) | unchecked((uint)(stream.Priority ^ int.MinValue));
        return (((rank << DueBits) | microseconds) << OrderBits) | order;
    }

    /// <summary>Whether tenants share the machine, or all stand in one line.</summary>
    public bool TellsTenantsApart => options.Policy == SchedulingPolicy.Slo;

    /// <summary>Whether a prompt is computed before another. Of one tenant the key says so, and of two classes. Of two
    /// tenants it is the one whose tenant will have got less by its end.</summary>
    /// <remarks>Virtual finish times (Demers et al. 1989, weighted fair queueing) over the tenants' virtual token
    /// counters: a short prompt passes another tenant's long one whatever either asks for, two long ones don't share
    /// steps until both are late, and whoever is passed is passed until the others got as much.</remarks>
    public bool IsBefore(Sequence a, Sequence b)
    {
        Share one = a.Stream.Share, other = b.Stream.Share;
        if (!TellsTenantsApart || one == other || one.Class != other.Class) return a.Key < b.Key;
        double first = one.ServedBy(a), second = other.ServedBy(b);
        return first != second ? first < second : a.Key < b.Key;
    }

    /// <summary>Whether a key is of a class after another's.</summary>
    public static bool IsLowerClass(UInt128 key, UInt128 than) =>
        (int)(key >> ClassStart) > (int)(than >> ClassStart);

    /// <summary>The smallest key of the class of a key.</summary>
    public static UInt128 FirstOfClass(UInt128 key) => key >> ClassStart << ClassStart;

    private static double SecondsOf(long ticks) => (double)ticks / Stopwatch.Frequency;
}
