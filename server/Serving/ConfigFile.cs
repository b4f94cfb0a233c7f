using System.Text;

namespace Native.Server.Serving;

/// <summary>A file of settings can't be read, or says what can't be; every mistake is told with its place.</summary>
internal sealed class ConfigFileException(IReadOnlyList<string> mistakes) : Exception(string.Join(" ", mistakes))
{
    public IReadOnlyList<string> Mistakes { get; } = mistakes;
}

/// <summary>Reads files of settings.</summary>
internal static class ConfigFile
{
    private static readonly UTF8Encoding Strict = new(false, throwOnInvalidBytes: true);

    /// <summary>The text of a file, without a byte order mark.</summary>
    /// <param name="path">Its name.</param>
    /// <param name="mostBytes">Bytes it may have; no more are read, whatever the name stands for.</param>
    /// <exception cref="ConfigFileException">It is not there, can't be read, is larger, or no UTF-8.</exception>
    public static string ReadText(string path, int mostBytes)
    {
        byte[] bytes = new byte[mostBytes + 1];
        int length;
        try
        {
            using FileStream stream = File.OpenRead(path);
            length = stream.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new ConfigFileException([$"{path} can't be read: {e.Message}"]);
        }
        if (length > mostBytes) throw new ConfigFileException([$"{path} has more than {mostBytes} bytes."]);
        try
        {
            return Strict.GetString(bytes, 0, length).TrimStart('\uFEFF');
        }
        catch (DecoderFallbackException e)
        {
            string wrong = e.BytesUnknown is { Length: > 0 } unknown ? $", 0x{unknown[0]:X2}" : "";
            throw new ConfigFileException([$"{path} is not UTF-8: see byte {e.Index}{wrong}."]);
        }
    }
}
