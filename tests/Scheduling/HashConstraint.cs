using Native.Scheduling;

namespace Native.Tests.Scheduling;

/// <summary>Allows about half of the vocabulary, by a hash of the tokens said so far, and is not always ready at
/// once.</summary>
internal sealed class HashConstraint(ulong state, bool slow = false) : ITokenConstraint
{
    private int _asked;

    /// <summary>Tokens told so far.</summary>
    public int Accepted { get; private set; }

    /// <summary>Thrown by the call of this number, counted over <see cref="Fill"/> and <see cref="Accept"/>; -1 for
    /// never.</summary>
    public int ThrowsAt { get; init; } = -1;

    private int _calls;

    public bool IsReady => !slow || _asked++ % 3 == 2;

    public void Fill(Span<uint> mask)
    {
        Call();
        for (int i = 0; i < mask.Length; i++) mask[i] = (uint)Hash.Mix(state, (ulong)i) | 1u << (i % 32);
    }

    public void Accept(int token)
    {
        Call();
        Accepted++;
        state = Hash.Mix(state, (ulong)token);
    }

    public ITokenConstraint Copy() => new HashConstraint(state, slow) { ThrowsAt = ThrowsAt };

    private void Call()
    {
        if (_calls++ == ThrowsAt) throw new InvalidOperationException("the constraint broke");
    }
}
