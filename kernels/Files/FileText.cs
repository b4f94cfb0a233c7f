namespace Native.Kernels.Files;

/// <summary>Text that came out of a file, made fit for a message: a bad file chooses its names.</summary>
internal static class FileText
{
    private const int MaxLength = 100;

    /// <summary>In quotation marks, cut, without control characters.</summary>
    public static string Quoted(string text) => $"\"{Shown(text)}\"";

    /// <summary>Cut, without control characters.</summary>
    public static string Shown(string text)
    {
        string head = text.Length <= MaxLength ? text : string.Concat(text.AsSpan(0, MaxLength), "...");
        return string.Create(head.Length, head, static (span, from) =>
        {
            for (int i = 0; i < span.Length; i++) span[i] = char.IsControl(from[i]) ? '?' : from[i];
        });
    }
}
