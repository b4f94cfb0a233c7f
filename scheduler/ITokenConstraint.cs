namespace Native.Scheduling;

/// <summary>What one choice may say next, e.g. by a grammar. The engine thread alone calls it once a request is
/// submitted.</summary>
public interface ITokenConstraint
{
    /// <summary>False while the next mask is still being computed elsewhere: the choice sits this step out.</summary>
    bool IsReady { get; }

    /// <summary>Sets the bit of every token that may come next and clears all others.</summary>
    /// <param name="mask">Bits over the vocabulary, 32 tokens a word, the first token in the lowest bit. Holds anything
    /// before.</param>
    void Fill(Span<uint> mask);

    /// <summary>Tells the token that was chosen. Not called for an end or stop id.</summary>
    void Accept(int token);

    /// <summary>The same state for another choice of the request. Called at submission, on the submitter's
    /// thread.</summary>
    ITokenConstraint Copy();
}
