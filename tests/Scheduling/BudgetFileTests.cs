using Native.Scheduling.Slo;

namespace Native.Tests.Scheduling;

/// <summary>A file that is closed without a last save has what a killed process's has.</summary>
public sealed class BudgetFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("native-budget-").FullName;
    private readonly SloClock _clock = new() { Seconds = 100 };

    private string Path => System.IO.Path.Combine(_folder, "slo.state");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void WhatWasSaved_IsThereAgain_InEveryWindow()
    {
        BudgetLedger ledger = Ledger();
        using (BudgetFile file = Open(ledger))
        {
            for (int i = 0; i < 2000; i++)
            {
                ledger.TenSeconds(_clock, (uint)i, i % 100 == 0 ? 1u : 0);
                if (i % 300 == 0) file.Save();
            }
            ledger.Count(0, 5, 1);
            file.Save();
            ledger.Count(0, 7, 2);
            file.Save();
            ledger.Count(0, 1000, 1000); // lost
        }
        BudgetLedger again = Ledger();
        using BudgetFile reopened = Open(again);
        foreach (BudgetWindow window in Enum.GetValues<BudgetWindow>())
        {
            BudgetCounts counts = ledger.Read(0, window);
            Assert.Equal(new BudgetCounts(counts.Good - 1000, counts.Bad - 1000), again.Read(0, window));
        }
        Assert.Equal(default, again.ReadSinceStart(0)); // a counter of this process
        again.Count(0, 1, 0);
        Assert.Equal(new BudgetCounts(1, 0), again.ReadSinceStart(0));
        _clock.Seconds += 10;
        again.Advance(_clock.Seconds);
        Assert.Equal(new BudgetCounts(1, 0), again.ReadSinceStart(0));
    }

    [Fact]
    public void TimeGoesOn_WhileTheServerIsDown()
    {
        BudgetLedger ledger = Ledger();
        using (BudgetFile file = Open(ledger))
        {
            ledger.TenSeconds(_clock, 0, 50);
            file.Save();
        }
        _clock.Seconds += 2 * 3600;
        BudgetLedger again = Ledger();
        using BudgetFile reopened = Open(again);
        Assert.Equal(0, again.Read(0, BudgetWindow.Hour).Bad);
        Assert.Equal(50, again.Read(0, BudgetWindow.SixHours).Bad);
        _clock.Seconds += 30 * 86400;
        again.Advance(_clock.Seconds);
        Assert.Equal(default, again.Read(0, BudgetWindow.Period));
    }

    [Fact]
    public void AStateOfTheFuture_IsMovedBack_AndItsWindowsSlide()
    {
        BudgetLedger ledger = Ledger();
        using (BudgetFile file = Open(ledger))
        {
            ledger.TenSeconds(_clock, 0, 50);
            _clock.Seconds += 290;
            ledger.Advance(_clock.Seconds);
            ledger.Count(0, 7, 0);
            file.Save();
        }
        SloClock back = new() { Seconds = 105, Offset = TimeSpan.FromDays(-365) };
        BudgetLedger again = new(new SloSpec([Objectives.Availability()]), back);
        List<string> warnings = [];
        using BudgetFile reopened = BudgetFile.Open(Path, again, warnings);
        Assert.Contains("after this machine's time", Assert.Single(warnings));
        Assert.Equal(new BudgetCounts(7, 50), again.Read(0, BudgetWindow.FiveMinutes));
        back.Seconds += 10;
        again.Advance(back.Seconds);
        Assert.Equal(new BudgetCounts(7, 0), again.Read(0, BudgetWindow.FiveMinutes));
    }

    [Fact]
    public void ALinksTarget_IsWritten_AndTheLinkStays()
    {
        if (OperatingSystem.IsWindows()) Assert.Skip("links need a privilege there");
        string link = Path + ".link";
        File.CreateSymbolicLink(link, Path);
        BudgetLedger ledger = Ledger();
        using (BudgetFile file = BudgetFile.Open(link, ledger, []))
        {
            ledger.Count(0, 3, 1);
            file.Save();
        }
        Assert.NotNull(new FileInfo(link).LinkTarget);
        BudgetLedger again = Ledger();
        using BudgetFile reopened = BudgetFile.Open(Path, again, []);
        Assert.Equal(new BudgetCounts(3, 1), again.Read(0, BudgetWindow.FiveMinutes));
    }

    [Fact]
    public void APipe_IsRefusedByName()
    {
        if (!OperatingSystem.IsLinux()) Assert.Skip("mkfifo is Unix's");
        using global::System.Diagnostics.Process made = global::System.Diagnostics.Process.Start("mkfifo", Path);
        made.WaitForExit();
        Assert.Contains(Path, Assert.Throws<InvalidDataException>(() => BudgetFile.Open(Path, Ledger(), [])).Message);
        Assert.True(File.Exists(Path));
    }

    [Theory, InlineData("/dev/null"), InlineData("/proc/self/status")]
    public void ADevice_IsRefused_AndLeftAsItIs(string path)
    {
        if (!OperatingSystem.IsLinux()) Assert.Skip("these are Linux's");
        Assert.Contains("device", Assert.Throws<IOException>(() => BudgetFile.Open(path, Ledger(), [])).Message);
        Assert.False(File.Exists(path + ".new"));
    }

    [Fact]
    public void AnObjectiveThatChanged_BeginsAnew_AndOthersGoOn()
    {
        SloObjective changed = Objectives.Of(SliKind.Ttft, 1), gone = Objectives.Of(SliKind.E2e, 1);
        BudgetLedger ledger = new(new SloSpec([changed, gone, Objectives.Availability()]), _clock);
        using (BudgetFile file = BudgetFile.Open(Path, ledger, []))
        {
            foreach (int i in (int[])[0, 1, 2]) ledger.Count(i, 10, 1);
            file.Save();
        }
        SloObjective[] now =
        [
            Objectives.Availability() with { Role = SloRole.Watch }, // the same counts
            changed with { Threshold = TimeSpan.FromSeconds(2) },
        ];
        BudgetLedger again = new(new SloSpec(now), _clock);
        List<string> warnings = [];
        using BudgetFile reopened = BudgetFile.Open(Path, again, warnings);
        Assert.Equal(new BudgetCounts(10, 1), again.Read(0, BudgetWindow.Hour));
        Assert.Equal(default, again.Read(1, BudgetWindow.Hour));
        Assert.Equal(2, warnings.Count);
        Assert.Contains("'ttft' was another one", warnings[0]);
        Assert.Contains("no objective 'e2e' any more", warnings[1]);
    }

    [Theory]
    [InlineData("percent"), InlineData("window"), InlineData("class"), InlineData("tenant"), InlineData("sli")]
    public void EveryPartOfADefinition_CountsButTheRole(string part)
    {
        SloObjective before = Objectives.Of(SliKind.Ttft, 1);
        SloObjective after = part switch
        {
            "percent" => before with { Percent = 99.0000001m },
            "window" => before with { Window = TimeSpan.FromDays(28) },
            "class" => before with { Class = "chat" },
            "tenant" => before with { Tenant = "acme" },
            _ => before with { Sli = SliKind.E2e },
        };
        Assert.NotEqual(before.Definition, after.Definition);
        Assert.Equal(before.Definition, (before with { Role = SloRole.Watch, Percent = 99.000m }).Definition);
    }

    [Fact]
    public void AFileThatIsCutOffAnywhere_GivesWhatIsWhole()
    {
        BudgetLedger ledger = Ledger();
        long[] wholes; // the file's length after each save
        using (BudgetFile file = Open(ledger))
        {
            wholes = new long[10];
            for (int i = 0; i < wholes.Length; i++)
            {
                ledger.Count(0, 1, 0);
                file.Save();
                wholes[i] = new FileInfo(Path).Length;
            }
        }
        byte[] whole = File.ReadAllBytes(Path);
        for (int length = 0; length <= whole.Length; length++)
        {
            File.WriteAllBytes(Path, whole[..length]);
            BudgetLedger again = Ledger();
            List<string> warnings = [];
            using BudgetFile reopened = BudgetFile.Open(Path, again, warnings);
            Assert.Equal(wholes.Count(end => end <= length), again.Read(0, BudgetWindow.Hour).Good);
            bool isWhole = length == 0 || length == whole.Length || wholes.Contains(length);
            if (isWhole) Assert.Empty(warnings);
            else if (length < wholes[0]) Assert.True(warnings.Count <= 1); // its objective may be all there is
            else Assert.Contains("is damaged after", Assert.Single(warnings));
        }
    }

    [Fact]
    public void ABitThatIsWrongAnywhere_IsNoticed_AndCrashesNothing()
    {
        BudgetLedger ledger = Ledger();
        using (BudgetFile file = Open(ledger))
        {
            for (int i = 0; i < 5; i++)
            {
                ledger.Count(0, 1, 0);
                file.Save();
            }
        }
        byte[] whole = File.ReadAllBytes(Path);
        int refused = 0;
        for (int i = 0; i < whole.Length; i++)
        {
            byte[] bytes = [.. whole];
            bytes[i] ^= (byte)(1 << (i % 8));
            File.WriteAllBytes(Path, bytes);
            BudgetLedger again = Ledger();
            List<string> warnings = [];
            try
            {
                using BudgetFile reopened = BudgetFile.Open(Path, again, warnings);
                Assert.NotEmpty(warnings);
                Assert.InRange(again.Read(0, BudgetWindow.Hour).Good, 0, 4);
            }
            catch (InvalidDataException)
            {
                refused++;
                Assert.Equal(bytes, File.ReadAllBytes(Path));
            }
        }
        Assert.Equal("native slo state 1\n".Length, refused); // only the first line says whose file it is
    }

    [Fact]
    public void SomebodyElsesFile_IsLeftAsItIs()
    {
        foreach (string text in (string[])["GGUF", "native slo state 2\nnewer", "slos:\n"])
        {
            File.WriteAllText(Path, text);
            Assert.Throws<InvalidDataException>(() => Open(Ledger()));
            Assert.Equal(text, File.ReadAllText(Path));
        }
    }

    [Fact]
    public void WhereNoFileCanBe_TheGivenPathAndTheReasonAreTold()
    {
        string none = System.IO.Path.Combine(_folder, "none");
        File.WriteAllText(Path, "");
        Assert.Equal($"the error budgets can't be kept in '{none}/state': the folder {none} is missing.",
            Assert.Throws<IOException>(() => BudgetFile.Open($"{none}/state", Ledger(), [])).Message);
        Assert.Equal($"the error budgets can't be kept in '{Path}/state': the folder {Path} is missing.",
            Assert.Throws<IOException>(() => BudgetFile.Open($"{Path}/state", Ledger(), [])).Message);
        Assert.Equal($"the error budgets can't be kept in '{_folder}': it is a folder, not a file.",
            Assert.Throws<IOException>(() => BudgetFile.Open(_folder, Ledger(), [])).Message);
        Assert.Contains("can't be kept in '': ",
            Assert.Throws<IOException>(() => BudgetFile.Open("", Ledger(), [])).Message);
    }

    [Fact]
    public void TwoServers_CantKeepOneFile()
    {
        using BudgetFile first = Open(Ledger());
        Assert.Contains($"can't be kept in '{Path}': ", Assert.Throws<IOException>(() => Open(Ledger())).Message);
    }

    [Fact]
    public void AFileThatCantBeWritten_IsWrittenWholeWhenItCan()
    {
        BudgetLedger ledger = Ledger();
        using (BudgetFile file = Open(ledger))
        {
            ledger.Count(0, 3, 0);
            file.Save();
            file.Dispose(); // as after a failed write
            string elsewhere = _folder + "-moved";
            Directory.Move(_folder, elsewhere);
            ledger.Count(0, 4, 0);
            Assert.ThrowsAny<IOException>(file.Save);
            Assert.ThrowsAny<IOException>(file.Save);
            Directory.Move(elsewhere, _folder);
            file.Save();
        }
        BudgetLedger again = Ledger();
        using BudgetFile reopened = Open(again);
        Assert.Equal(7, again.Read(0, BudgetWindow.Hour).Good);
    }

    [Fact]
    public void AFileThatWasDeleted_IsWrittenAgain()
    {
        BudgetLedger ledger = Ledger();
        using (BudgetFile file = Open(ledger))
        {
            ledger.Count(0, 3, 0);
            file.Save();
            File.Delete(Path);
            file.Save();
        }
        BudgetLedger again = Ledger();
        using BudgetFile reopened = Open(again);
        Assert.Equal(3, again.Read(0, BudgetWindow.Hour).Good);
    }

    [Fact]
    public void TheFile_IsWrittenAnewWhenItHasGrown()
    {
        BudgetLedger ledger = Ledger();
        using BudgetFile file = Open(ledger);
        long most = 0;
        for (int i = 0; i < 100_000; i++)
        {
            ledger.Count(0, 1, 0);
            if (i % 10 == 0)
            {
                _clock.Seconds += 10;
                ledger.Advance(_clock.Seconds);
            }
            file.Save();
            most = Math.Max(most, new FileInfo(Path).Length);
        }
        Assert.InRange(most, 1 << 20, (1 << 20) + 1000); // 100,000 frames of 25 bytes would be 2.5 MB
    }

    [Fact]
    public void ManyPairs_TakeSeveralFrames()
    {
        BudgetLedger ledger = Ledger();
        for (int i = 0; i < 20_000; i++) ledger.TenSeconds(_clock, 1, 1);
        Open(ledger).Dispose();
        BudgetLedger again = Ledger();
        using BudgetFile reopened = Open(again);
        Assert.Equal(new BudgetCounts(20_000, 20_000), again.Read(0, BudgetWindow.Period));
    }

    private BudgetLedger Ledger() => new(new SloSpec([Objectives.Availability()]), _clock);

    private BudgetFile Open(BudgetLedger ledger)
    {
        List<string> warnings = [];
        BudgetFile file = BudgetFile.Open(Path, ledger, warnings);
        Assert.Empty(warnings);
        return file;
    }
}
