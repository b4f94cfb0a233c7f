using Native.Kernels;
using Native.Kernels.Models;

namespace Native.Tests.Kernels;

/// <summary>Model files that somebody writes to, shortens, replaces or deletes while they are read, and after they
/// were.</summary>
public sealed class ModelFileChangesTests
{
    private static readonly string Demo = Path.Combine(AppContext.BaseDirectory, "models", "demo.gguf");

    [Theory]
    [InlineData(0)]
    [InlineData(100)]
    [InlineData(400_000)]
    public void Loading_AFileThatIsShortenedMeanwhile_IsAnErrorThatNamesIt(long length)
    {
        using TemporaryFolder folder = new();
        string path = Copy(folder);
        bool shortened = false;
        InvalidDataException e = Assert.Throws<InvalidDataException>(() => Load(path, _ =>
        {
            if (shortened) return;
            shortened = true;
            using FileStream file = new(path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite);
            file.SetLength(length);
        }));
        Assert.True(shortened);
        Assert.StartsWith(path, e.Message, StringComparison.Ordinal);
        Assert.Contains("it was shortened while it was read", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Loading_AFileThatIsWrittenToMeanwhile_IsAnErrorThatNamesIt()
    {
        using TemporaryFolder folder = new();
        string path = Copy(folder);
        bool written = false;
        InvalidDataException e = Assert.Throws<InvalidDataException>(() => Load(path, _ =>
        {
            if (written) return;
            written = true;
            using FileStream file = new(path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite);
            file.Seek(-4096, SeekOrigin.End);
            file.Write(new byte[4096]);
        }));
        Assert.True(written);
        Assert.StartsWith(path, e.Message, StringComparison.Ordinal);
        Assert.Contains("it was written to", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Loading_GoesOnWithTheFileItOpened_WhereAnotherTakesItsNameOrItIsDeleted(bool replace)
    {
        using TemporaryFolder folder = new();
        string path = Copy(folder);
        File.WriteAllText(folder.File("new"), "another model");
        bool gone = false;
        using LoadedModel model = Load(path, _ =>
        {
            if (gone) return;
            gone = true;
            if (replace) File.Move(folder.File("new"), path, overwrite: true);
            else File.Delete(path);
        });
        Assert.True(gone);
        using LoadedModel same = Load(Demo, _ => { });
        Assert.Equal(Answer(same), Answer(model));
    }

    [Fact]
    public void ALoadedModel_ReadsNothingMoreOfItsFile()
    {
        using TemporaryFolder folder = new();
        string path = Copy(folder);
        using LoadedModel model = Load(path, _ => { });
        int[] before = Answer(model);
        byte[] noise = new byte[(int)new FileInfo(path).Length];
        new Random(1).NextBytes(noise);
        File.WriteAllBytes(path, noise);
        Assert.Equal(before, Answer(model));
        using (FileStream file = File.OpenWrite(path)) file.SetLength(0);
        Assert.Equal(before, Answer(model));
        File.Delete(path);
        Assert.Equal(before, Answer(model));
        Assert.Equal("Once upon a time", model.Tokenizer.Decode(model.Tokenizer.Encode("Once upon a time", addSpecial: false, parseSpecial: false)));
    }

    private static string Copy(TemporaryFolder folder)
    {
        string path = folder.File("m.gguf");
        File.Copy(Demo, path);
        return path;
    }

    private static LoadedModel Load(string path, Action<LoadProgress> report) =>
        LoadedModel.Load(new ModelOptions { Path = path, KvCacheType = DType.F32, KvCacheBytes = 4 << 20, MaxSequences = 1, Threads = 1 }, new Reports(report));

    /// <summary>Ids that follow some others.</summary>
    private static int[] Answer(LoadedModel model) => RunnerDriver.Run(model.Runner, [model.Tokenizer.Encode("Once upon a time", addSpecial: false, parseSpecial: false)], outputs: 12, chunk: 8)[0].Output;

    /// <summary>Tells on the loading thread.</summary>
    private sealed class Reports(Action<LoadProgress> report) : IProgress<LoadProgress>
    {
        public void Report(LoadProgress value) => report(value);
    }
}
