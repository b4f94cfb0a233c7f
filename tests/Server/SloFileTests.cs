using Native.Scheduling.Slo;
using Native.Server.Serving;
using Native.Server.Slo;

namespace Native.Tests.Server;

public sealed class SloFileTests
{
    [Fact]
    public void TheExample_IsRead()
    {
        SloSpec spec = SloFile.Parse("slo.yml", SloFile.Example);
        Assert.Equal(100, spec.MinEvents);
        Assert.Equal(
            [
                new SloObjective
                {
                    Name = "first-token",
                    Sli = SliKind.Ttft,
                    Threshold = TimeSpan.FromMilliseconds(500),
                    Percent = 99,
                    Window = TimeSpan.FromDays(30),
                },
                new SloObjective
                {
                    Name = "answered",
                    Sli = SliKind.Availability,
                    Percent = 99.9m,
                    Role = SloRole.Watch,
                },
            ],
            spec.Objectives);
    }

    [Fact]
    public void TheReadmesExample_IsTheHelpsExample()
    {
        string path = Path.Combine(Repository(), "server", "Slo", "README.md");
        Assert.SkipUnless(File.Exists(path), "the sources are not where they were built");
        string[] parts = File.ReadAllText(path).Split("```yaml\n");
        Assert.Equal(2, parts.Length);
        Assert.Equal(SloFile.Example + "\n", parts[1][..parts[1].IndexOf("```", StringComparison.Ordinal)]);
    }

    [Theory]
    [InlineData("1ms", 0.001), InlineData("2.5s", 2.5), InlineData("0.000001s", 0.000001), InlineData("3m", 180)]
    [InlineData("1h", 3600), InlineData("0.5d", 43200)]
    public void ATimeHasAUnit(string text, double seconds) =>
        Assert.Equal(TimeSpan.FromSeconds(seconds), One($"sli: e2e, threshold: {text}, objective: 99").Threshold);

    [Fact]
    public void EveryKey_IsRead_HoweverYamlWritesIt()
    {
        SloObjective objective = SloFile.Parse("f", """
            # a comment
            "slos":
            - {name: a, sli: "tpot", threshold: 60ms, objective: 99.5, window: 7d,
               class: 'batch', tenant: "Acme, Inc.", role: control}
            """).Objectives[0];
        Assert.Equal(
            new SloObjective
            {
                Name = "a",
                Sli = SliKind.Tpot,
                Threshold = TimeSpan.FromMilliseconds(60),
                Percent = 99.5m,
                Window = TimeSpan.FromDays(7),
                Class = "batch",
                Tenant = "Acme, Inc.",
            }, objective);
    }

    [Theory]
    [InlineData("", "line 1, column 1: there are no objectives")]
    [InlineData("- a", "line 1, column 1: there are no objectives")]
    [InlineData("min_events: 5", "'slos' is missing")]
    [InlineData("slos: []", "line 1, column 7: there are no objectives")]
    [InlineData("slos: {}", "line 1, column 7: 'slos' must be a list")]
    [InlineData("slos:\n- a", "line 2, column 3: an objective has the keys name, sli")]
    [InlineData("slos:\n- [[a]]\n- b: c", "line 3, column 3: 'b' is no key here")]
    [InlineData("slo: 1\nslos: []", "line 1, column 1: 'slo' is no key here; there are slos, min_events.")]
    [InlineData("slos: []\nslos: []", "line 2, column 1: 'slos' is there twice")]
    [InlineData("slos: [\n", "line 2, column 1: not valid YAML: a value is missing.")]
    [InlineData("slos:\n- name: a\n  name: b", "line 3, column 3: 'name' is there twice")]
    [InlineData("slos:\n- &x {name: a}", "line 2, column 3: anchors, aliases and tags are not read here")]
    [InlineData("slos:\n- *x", "line 2, column 3: anchors, aliases and tags are not read here")]
    [InlineData("slos:\n- name: !!str a", "line 2, column 9: anchors, aliases and tags")]
    [InlineData("slos:\n- {? [a] : b}", "line 2, column 6: a key must be one of name")]
    [InlineData("slos:\n- name: [a]", "line 2, column 9: name must be a single value")]
    [InlineData("slos:\n- name: [a]\n  p99: b", "line 3, column 3: this is no key here; there are name")]
    [InlineData("slos:\n- name: a\n    b", "line 2, column 9: name must be in one line")]
    [InlineData("slos: []\n---\nslos: []", "line 2, column 1: a file has one document")]
    [InlineData("slos: []\nmin_events: 0", "line 2, column 13: min_events is '0'")]
    public void AFileThatIsNone_IsRefused_WithThePlace(string text, string expected)
    {
        ConfigFileException e = Assert.Throws<ConfigFileException>(() => SloFile.Parse("f.yml", text));
        Assert.Contains(e.Mistakes, mistake => mistake.Contains(expected));
        Assert.All(e.Mistakes, mistake => Assert.StartsWith("f.yml, line ", mistake));
    }

    [Theory]
    [InlineData("sli: ttft, objective: 99", "column 8: threshold is missing; ttft is good up to a time.")]
    [InlineData("sli: ttft, threshold: 0.5, objective: 99", "column 40: threshold is '0.5'; it must be a time such as")]
    [InlineData("sli: ttft, threshold: -1s, objective: 99", "threshold is '-1s'")]
    [InlineData("sli: ttft, threshold: 0s, objective: 99", "threshold is '0s'; it must be above 0 and at most 1d.")]
    [InlineData("sli: ttft, threshold: 25h, objective: 99", "threshold is '25h'; it must be above 0 and at most 1d.")]
    [InlineData("sli: availability, threshold: 1s, objective: 99", "threshold is '1s'; availability has none.")]
    [InlineData("sli: TTFT, threshold: 1s, objective: 99", "sli is 'TTFT'; it must be one of availability, ttft")]
    [InlineData("sli: 0, objective: 99", "sli is '0'")]
    [InlineData("objective: 99", "no 'sli'")]
    [InlineData("sli: availability", "no 'objective'")]
    [InlineData("sli: availability, objective: 100", "objective is '100'; it must be a percentage from 50 to")]
    [InlineData("sli: availability, objective: 0.999", "objective is '0.999'")]
    [InlineData("sli: availability, objective: 99%", "objective is '99%'; it must be a percentage such as")]
    [InlineData("sli: availability, objective: 99.00000001", "at most 7 decimals")]
    [InlineData("sli: availability, objective: 1e2", "objective is '1e2'")]
    [InlineData("sli: availability, objective: 99, window: 31d", "window is '31d'; it must be from 7d to 30d")]
    [InlineData("sli: availability, objective: 99, window: 6d", "window is '6d'; it must be from 7d to 30d")]
    [InlineData("sli: availability, objective: 99, window: 169.5h", "window is '169.5h'; it must be")]
    [InlineData("sli: availability, objective: 99, class: ''", "class is ''; it must be one of online, batch")]
    [InlineData("sli: availability, objective: 99, class: ~", "class has no value")]
    [InlineData("sli: availability, objective: 99, class: null", "class has no value")]
    [InlineData("sli: availability, objective: 99, role: boss", "role is 'boss'; it must be one of control, watch")]
    [InlineData("sli: availability, objective: 99, windw: 7d", "'windw' is no key here; there are name, sli")]
    public void AnObjectiveThatCantBe_IsRefused_WithThePlace(string keys, string expected)
    {
        ConfigFileException e = Assert.Throws<ConfigFileException>(() => One(keys));
        Assert.Contains(e.Mistakes, mistake => mistake.Contains(expected));
        Assert.All(e.Mistakes, mistake => Assert.StartsWith("f.yml, line 1, column ", mistake));
    }

    [Fact]
    public void EveryMistake_IsToldAtOnce_UpToAFew()
    {
        ConfigFileException e = Assert.Throws<ConfigFileException>(() => SloFile.Parse("f.yml", """
            slos:
            - name: a
              sli: ttft
              objective: 200
            - name: a b
              sli: availability
              objective: 99
            - {name: c, sli: availability, objective: 99}
            - {name: c, sli: availability, objective: 99}
            """));
        Assert.Equal(["2", "4", "5", "9"], Lines(e));
        string many = "slos:\n" + string.Concat(Enumerable.Repeat("- x: y\n", 100));
        Assert.Equal(20, Assert.Throws<ConfigFileException>(() => SloFile.Parse("f", many)).Mistakes.Count);
    }

    [Fact]
    public void ANameThatIsThereAlready_IsToldBesideOtherMistakes_AndEachOnce()
    {
        ConfigFileException e = Assert.Throws<ConfigFileException>(() => SloFile.Parse("f.yml", """
            slos:
            - {name: a, sli: what, threshold: 1s, window: 31d}
            - sli:
              objective: 99
              name: a
            min_events: many
            """));
        Assert.Equal(
            [
                "f.yml, line 2, column 3: an objective has no 'objective'.",
                "f.yml, line 2, column 18: sli is 'what'; it must be one of availability, ttft, tpot, itl, e2e.",
                "f.yml, line 2, column 47: window is '31d'; it must be from 7d to 30d, in whole hours.",
                "f.yml, line 3, column 7: sli has no value.",
                "f.yml, line 5, column 9: there is an objective of the name 'a' already, in line 2.",
                "f.yml, line 6, column 13: min_events is 'many'; it must be a whole number from 1 to 10000.",
            ], e.Mistakes);
    }

    [Theory]
    [InlineData("\t- name: a", "line 2, column 1: not valid YAML: a tab can't indent; use spaces.")]
    [InlineData("- name: a\n   sli: b", "line 3, column 7: not valid YAML: ': ' is in the middle of a value: put the")]
    [InlineData("- name: \"a", "line 2, column 9: not valid YAML: the closing quote is missing.")]
    [InlineData("- name: \"\\q\"", "line 2, column 9: not valid YAML: this can't follow a '\\' in double quotes")]
    [InlineData("- name: @a", "line 2, column 9: not valid YAML: no value begins with this character; put the value")]
    [InlineData("- name: |a", "line 2, column 9: not valid YAML: a text after '|' or '>' begins in the next line")]
    [InlineData("- name: &", "line 2, column 9: not valid YAML: '&' and '*' begin anchors and aliases; put the")]
    [InlineData("- name: !x!y a", "line 2, column 9: not valid YAML: '!' begins a tag; put the value in quotes.")]
    [InlineData("- {name: a sli: ttft}", "not valid YAML: a ',' or the closing '}' is missing.")]
    [InlineData("- [a", "not valid YAML: a ',' or the closing ']' is missing.")]
    [InlineData("  - name: a\n  sli: b", "line 3, column 3: not valid YAML: a '-' must be here; mend the indentation.")]
    [InlineData("  - name: a\n b: c", "line 3, column 2: not valid YAML: a key must be here; mend the indentation")]
    public void WhatIsNotValidYaml_IsToldInPlainWords(string list, string expected)
    {
        ConfigFileException e =
            Assert.Throws<ConfigFileException>(() => SloFile.Parse("f.yml", "slos:\n" + list));
        Assert.Contains(e.Mistakes, mistake => mistake.Contains(expected, StringComparison.Ordinal));
    }

    [Fact]
    public void AFile_IsReadToALimit_AndOneThatIsNotThereIsToldOf()
    {
        string path = Path.GetTempFileName();
        try
        {
            File.WriteAllText(path, "\uFEFF" + SloFile.Example);
            Assert.Equal(2, SloFile.Read(path).Objectives.Count);
            File.WriteAllText(path, SloFile.Example + new string('#', 70_000));
            Assert.Contains("more than 65536 bytes",
                Assert.Throws<ConfigFileException>(() => SloFile.Read(path)).Mistakes[0]);
            File.WriteAllBytes(path, [.. "# caf"u8, 0xE9, .. "\nslos:"u8]); // Latin-1
            Assert.EndsWith(" is not UTF-8: see byte 5, 0xE9.",
                Assert.Throws<ConfigFileException>(() => SloFile.Read(path)).Mistakes[0]);
        }
        finally
        {
            File.Delete(path);
        }
        foreach (string none in (string[])[path, Path.GetTempPath(), "", "\0"])
            Assert.Contains("can't be read", Assert.Throws<ConfigFileException>(() => SloFile.Read(none)).Mistakes[0]);
        string most = string.Concat(Enumerable.Range(0, 33)
            .Select(i => $"- {{name: a{i}, sli: availability, objective: 99}}\n"));
        Assert.Contains("more than 32 objectives",
            Assert.Throws<ConfigFileException>(() => SloFile.Parse("f", "slos:\n" + most)).Mistakes[0]);
    }

    [Theory]
    [InlineData("["), InlineData("{"), InlineData("- "), InlineData("? "), InlineData("{a: "), InlineData("- - ")]
    public void NestingAsDeepAsAFileIsLong_IsRefused_NotACrash(string text)
    {
        string deep = "slos:\n" + string.Concat(Enumerable.Repeat(text, 60_000 / text.Length));
        Exception? thrown = null;
        Thread thread = new(() => thrown = Record.Exception(() => SloFile.Parse("f", deep)), 256 << 10);
        thread.Start();
        thread.Join();
        Assert.Contains("nests too deeply", Assert.IsType<ConfigFileException>(thrown).Mistakes[^1]);
    }

    private static IEnumerable<string> Lines(ConfigFileException e) =>
        e.Mistakes.Select(mistake => mistake.Split("line ")[1].Split(',')[0]);

    private static SloObjective One(string keys) =>
        SloFile.Parse("f.yml", $"slos: [{{name: a, {keys}}}]").Objectives[0];

    private static string Repository(
        [System.Runtime.CompilerServices.CallerFilePath] string path = "") =>
        Path.GetFullPath(Path.Combine(Path.GetDirectoryName(path)!, "../.."));
}
