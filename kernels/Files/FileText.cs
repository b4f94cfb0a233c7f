namespace Native.Kernels.Files;

/// <summary>Makes text from a file fit for a message. A bad file can hold any text.</summary>
internal static class FileText
{
    private const int MaxLength = 100;

    /// <summary>The text in quotation marks, shortened, without control characters.</summary>
    public static string Quoted(string text) => $"\"{Shown(text)}\"";

    /// <summary>The text, shortened, without control characters.</summary>
    public static string Shown(string text)
    {
        string head = text.Length <= MaxLength ? text : string.Concat(text.AsSpan(0, MaxLength), "...");
        return string.Create(head.Length, head, static (span, from) =>
        {
            for (int i = 0; i < span.Length; i++) span[i] = char.IsControl(from[i]) ? '?' : from[i];
        });
    }
}
