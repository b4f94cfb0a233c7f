using System.Globalization;
using System.Runtime.CompilerServices;

namespace Native.Tests.Structure;

/// <summary>Lines, methods and READMEs have a greatest length. What is longer today is listed, and the list only
/// shrinks.</summary>
public sealed class TidyTests
{
    private const int MaxWords = 1000; // of a README
    private const string List = "tests/Structure/tidy.txt";
    private const string Rewrite = "TIDY_REWRITE";

    [Fact]
    public void LinesAndMethods_AreAsLongAsTheListSays()
    {
        string repository = Repository();
        SortedDictionary<string, int> listed = ReadList(File.ReadAllLines(Path.Combine(repository, List)));
        SortedDictionary<string, int> found = new(StringComparer.Ordinal);
        int files = 0;
        foreach (string file in Tidy.Files(repository, "*.cs"))
        {
            files++;
            foreach ((string name, int count) in Tidy.Findings(file, File.ReadAllText(Path.Combine(repository, file))))
                found.Add(name, count);
        }
        Assert.True(files > 200, $"only {files} files were found");
        if (Environment.GetEnvironmentVariable(Rewrite) == "1")
        {
            Assert.True(Excess(found) <= Excess(listed), $"the list would grow from {Excess(listed)} to {Excess(found)}");
            File.WriteAllLines(Path.Combine(repository, List), found.Select(entry => $"{entry.Value} {entry.Key}"));
            return;
        }
        string[] differences = Differences(listed, found);
        Assert.True(differences.Length == 0, string.Join('\n', differences));
    }

    [Fact]
    public void Readmes_AreAPage()
    {
        string repository = Repository();
        (string File, int Words)[] readmes = [.. Tidy.Files(repository, "README.md")
            .Select(file => (file, Tidy.Words(File.ReadAllText(Path.Combine(repository, file)))))];
        Assert.True(readmes.Length >= 8, $"only {readmes.Length} READMEs were found");
        string[] longer = [.. readmes.Where(readme => readme.Words > MaxWords)
            .Select(readme => $"{readme.File} has {readme.Words} words, more than {MaxWords}")];
        Assert.True(longer.Length == 0, string.Join('\n', longer));
    }

    [Fact]
    public void TheListMustBeExact_BothWays()
    {
        SortedDictionary<string, int> listed = ReadList(["3 a.cs", "80 a.cs A.M", "2 b.cs"]);
        Assert.Empty(Differences(listed, ReadList(["2 b.cs", "80 a.cs A.M", "3 a.cs"])));
        Assert.Equal(
            [
                $"a.cs: 4 lines are longer than 120 columns, {List} allows 3",
                $"a.cs A.M: 75 is less than the 80 in {List}: lower the number in the list",
                $"b.cs: 0 is less than the 2 in {List}: lower the number in the list",
                $"c.cs C.M: the method has 71 lines, at most 70 are allowed",
            ],
            Differences(listed, ReadList(["4 a.cs", "75 a.cs A.M", "71 c.cs C.M"])));
    }

    [Fact]
    public void WhatIsTooLong_IsFound_WhereverItStands()
    {
        string lines = string.Concat(Enumerable.Repeat("        _ = 1;\n", 70)), wide = new('x', 121);
        string source = $$""""
            class A
            {
                // {{wide}}
                string S => """
            } void Braces() { {{wide}}
            """;
                [Obsolete]
                void M()
                {
            {{lines}}    }
                void M(int overload)
                {
            {{lines}}    }
                int P { get { {{lines}} return 1; } }
                A() { void Local() { {{lines}} } char brace = '{'; }
                void Short() { }
            }
            """";
        Assert.Equal(
            [
                ("f.cs", 2), ("f.cs A.M", 73), ("f.cs A.M#2", 73), ("f.cs A.P.get", 71), ("f.cs A.A", 71),
                ("f.cs A.A.Local", 71),
            ],
            Tidy.Findings("f.cs", source));
        Assert.Empty(Tidy.Findings("f.cs", $"class A {{ void M() {{\n{lines[..^30]}}} }} // {wide[..80]}"));
        Assert.Throws<InvalidDataException>(() => Tidy.Findings("f.cs", "class A { void M() {").ToArray());
    }

    /// <summary>What the sources and the list disagree on, one sentence each.</summary>
    private static string[] Differences(SortedDictionary<string, int> listed, SortedDictionary<string, int> found) =>
        [.. listed.Keys.Union(found.Keys).Order(StringComparer.Ordinal)
            .Select(name => Difference(name, listed.GetValueOrDefault(name), found.GetValueOrDefault(name)))
            .OfType<string>()];

    private static string? Difference(string name, int allowed, int count)
    {
        if (count < allowed) return $"{name}: {count} is less than the {allowed} in {List}: lower the number in the list";
        if (count == allowed) return null;
        if (!IsMethod(name)) return $"{name}: {count} lines are longer than {Tidy.MaxColumns} columns, {List} allows {allowed}";
        return $"{name}: the method has {count} lines, at most {Math.Max(allowed, Tidy.MaxLines)} are allowed";
    }

    /// <summary>How much there is too much: long lines, and lines of methods above the greatest length.</summary>
    private static int Excess(SortedDictionary<string, int> list) =>
        list.Sum(entry => entry.Value - (IsMethod(entry.Key) ? Tidy.MaxLines : 0));

    private static bool IsMethod(string name) => name.Contains(' ', StringComparison.Ordinal);

    private static SortedDictionary<string, int> ReadList(string[] lines)
    {
        SortedDictionary<string, int> list = new(StringComparer.Ordinal);
        foreach (string line in lines)
        {
            string[] parts = line.Split(' ', 2);
            list.Add(parts[1], int.Parse(parts[0], CultureInfo.InvariantCulture));
        }
        return list;
    }

    private static string Repository([CallerFilePath] string path = "")
    {
        string repository = Path.GetFullPath(Path.Combine(Path.GetDirectoryName(path)!, "../.."));
        Assert.SkipUnless(Directory.Exists(repository), "the sources are not where they were built");
        return repository;
    }
}
