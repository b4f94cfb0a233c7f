namespace Native.Tests;

/// <summary>The folder of real models, tokenizers and oracle vectors, given by the environment variable
/// <c>NATIVE_DATA</c>.</summary>
internal static class TestData
{
    private static readonly string? Root = Environment.GetEnvironmentVariable("NATIVE_DATA");

    /// <summary>The full path of a file or folder below <c>NATIVE_DATA</c>; the calling test is reported as skipped
    /// where it is not there.</summary>
    public static string Path(string relative)
    {
        Assert.SkipWhen(string.IsNullOrEmpty(Root), "NATIVE_DATA is not set");
        string path = System.IO.Path.Combine(Root!, relative);
        Assert.SkipUnless(File.Exists(path) || Directory.Exists(path), $"NATIVE_DATA has no {relative}");
        return path;
    }
}
