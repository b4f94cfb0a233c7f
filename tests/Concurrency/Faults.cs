namespace Native.Tests.Concurrency;

/// <summary>Faults that change nothing that a scenario could see.</summary>
internal static class Faults
{
    /// <summary>By place (type and member), source and kind: why.</summary>
    public static readonly Dictionary<(string Place, string Text, FaultKind Kind), string> Spared = new()
    {
    };
}
