namespace Native.Server.Serving;

/// <summary>A file of settings can't be read, or says what can't be; every mistake is told with its place.</summary>
internal sealed class ConfigFileException(IReadOnlyList<string> mistakes) : Exception(string.Join(" ", mistakes))
{
    public IReadOnlyList<string> Mistakes { get; } = mistakes;
}
