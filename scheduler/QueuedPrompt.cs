using System.Numerics;

namespace Native.Scheduling;

/// <summary>A prompt in the queue, as far as those at the door must know it.</summary>
/// <param name="Rank">Who goes first whatever the prompts' lengths, see <see cref="RankOf"/>.</param>
/// <param name="Length">Its tokens.</param>
/// <param name="Tokens">Of these, those that are to be computed.</param>
internal readonly record struct QueuedPrompt(int Rank, int Length, int Tokens)
{
    /// <summary>Ranks there are.</summary>
    public const int Ranks = 6;

    private const int Lengths = 32; // powers of two

    /// <summary>Places that prompts fall into.</summary>
    public const int Places = Ranks * Lengths;

    /// <summary>0 goes first: by the sign of the priority, then those that were promised something.</summary>
    public static int RankOf(int priority, bool isPromised) =>
        (2 * (1 + Math.Sign(priority))) + (isPromised ? 0 : 1);

    /// <summary>Its place among them: by rank, then by powers of two of its length.</summary>
    public int Place => (Rank * Lengths) + BitOperations.Log2((uint)Math.Max(Length, 1));
}
