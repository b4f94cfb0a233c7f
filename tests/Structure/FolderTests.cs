using System.Reflection;
using System.Runtime.CompilerServices;
using System.Text.RegularExpressions;

namespace Native.Tests.Structure;

public sealed partial class FolderTests
{
    /// <summary>Where each project's namespace begins.</summary>
    private static readonly Dictionary<string, string> Roots = new()
    {
        ["kernels"] = "Native.Kernels",
        ["scheduler"] = "Native.Scheduling",
        ["server"] = "Native.Server",
        ["tools"] = "Native.Tools",
        ["tools/demo-model"] = "Native.Tools.DemoModel",
        ["bench"] = "Native.Bench",
        ["tests"] = "Native.Tests",
    };

    /// <summary>
    /// Arrows that close a circle: loading a model chooses its backend. Only taken from, never added to.
    /// </summary>
    private static readonly (string From, string To)[] Arrows = [];

    /// <summary>Folders whose files have their parent's namespace. Only taken from, never added to.</summary>
    private static readonly string[] Exceptions = [];

    [Theory]
    [InlineData("Native.Kernels"), InlineData("Native.Scheduling"), InlineData("Native.Server")]
    [InlineData("Native.Tools"), InlineData("Native.Bench")]
    public void NoCircleOfFolders_IsInAnAssembly(string name)
    {
        Dictionary<(string From, string To), (Type From, Type To)> arrows = Namespaces.ArrowsOf(Assembly.Load(name));
        string[] circular = [.. Namespaces.Circular([.. arrows.Keys.Except(Arrows)])
            .Select(arrow => $"{arrow.From} uses {arrow.To}: {arrows[arrow].From} uses {arrows[arrow].To}").Order()];
        Assert.True(circular.Length == 0, $"folders use each other in a circle:\n{string.Join('\n', circular)}");
    }

    [Fact]
    public void ACircle_IsFound_AlsoInsideAMethodBody()
    {
        (string, string)[] arrows = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")];
        Assert.Equal([("a", "b"), ("b", "c"), ("c", "a")], Namespaces.Circular(arrows));
        // The list of protocols names them in its static constructor alone.
        Assert.Contains(
            ("Native.Server", "Native.Server.OpenAi"), Namespaces.ArrowsOf(Assembly.Load("Native.Server")).Keys);
    }

    [Fact]
    public void EveryFilesNamespace_IsItsFolder()
    {
        string repository = Path.GetFullPath(Path.Combine(Path.GetDirectoryName(ThisFile())!, "../.."));
        Assert.SkipUnless(Directory.Exists(repository), "the sources are not where they were built");
        List<string> wrong = [];
        int files = 0;
        foreach (string project in Roots.Keys)
        {
            foreach (string file in Directory.EnumerateFiles(
                Path.Combine(repository, project), "*.cs", SearchOption.AllDirectories))
            {
                string folder = Path.GetRelativePath(repository, Path.GetDirectoryName(file)!).Replace('\\', '/');
                string[] parts = folder.Split('/');
                if (parts.Any(part => part is "bin" or "obj" or "node_modules")) continue;
                bool Holds(string key) => folder == key || folder.StartsWith(key + "/", StringComparison.Ordinal);
                string root = Roots.Keys.Where(Holds).MaxBy(key => key.Length)!;
                if (root != project || Exceptions.Contains(folder)) continue;
                string expected = Roots[root] + folder[root.Length..].Replace('/', '.');
                files++;
                foreach (Match found in Declaration().Matches(File.ReadAllText(file)))
                {
                    string said = found.Groups[1].Value;
                    if (said != expected) wrong.Add($"{folder}/{Path.GetFileName(file)}: {said} is not {expected}");
                }
            }
        }
        Assert.True(files > 200, $"only {files} files were found");
        Assert.True(wrong.Count == 0, string.Join('\n', wrong));
    }

    private static string ThisFile([CallerFilePath] string path = "") => path;

    [GeneratedRegex(@"^namespace\s+([\w.]+)\s*;", RegexOptions.Multiline)]
    private static partial Regex Declaration();
}
