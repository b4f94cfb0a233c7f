using System.Diagnostics;
using System.Globalization;
using System.IO.MemoryMappedFiles;
using System.Reflection;
using System.Text;

namespace Native.Tests.Fuzz;

/// <summary>One reader under fuzz. Whatever bytes it gets, it takes or refuses them as it documents, soon, and in
/// memory bounded by their number.</summary>
/// <remarks>Input n of a target is a function of (target, seed, n) and of the seeds there are. A few thousand are
/// tried; <c>NATIVE_FUZZ</c> sets how many, <c>NATIVE_FUZZ_SEED</c> the seed, <c>NATIVE_FUZZ_FIRST</c> the number to
/// begin with.</remarks>
/// <param name="name">The target's name, in messages and of its folder of finds.</param>
/// <param name="draw">Makes an input.</param>
/// <param name="run">Hands the input to the reader.</param>
internal sealed class FuzzTarget(string name, Func<Random, byte[]> draw, Action<byte[]> run)
{
    private const int MaxReported = 10;

    /// <summary>A hang, however slow and busy the machine: inputs take microseconds, and the few that spend a budget a
    /// second or two.</summary>
    private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(60);

    /// <summary>Less than the threads of a server have, so that what nests too deeply is found before it ends a
    /// server.</summary>
    private const int StackBytes = 512 << 10;

    private static readonly int? Wanted = Number("NATIVE_FUZZ");
    private static readonly int Seed = Number("NATIVE_FUZZ_SEED") ?? 1;
    private static readonly int First = Number("NATIVE_FUZZ_FIRST") ?? 0;

    private long _current = long.MinValue; // the number of the input that runs; the finds' are negative
    private long _since;        // since when
    private int _done, _taken;
    private readonly Dictionary<string, string> _finds = [];
    private (double Share, long Bytes, int Length, long Number) _worst;
    private double _perByte;

    /// <summary>Below this length an input's constant cost hides what each byte costs.</summary>
    private const int LongInput = 4096;

    /// <summary>How a reader may refuse: by an exception it documents.</summary>
    public required Func<Exception, bool> Refuses { get; init; }

    /// <summary>Managed bytes that an input of no length may cost.</summary>
    public required long AllocationBase { get; init; }

    /// <summary>Managed bytes that each byte of input may cost beside.</summary>
    public required int AllocationPerByte { get; init; }

    /// <summary>Inputs in a run of the whole suite.</summary>
    public int Inputs { get; init; } = 3000;

    /// <summary>Counts what <c>run</c> allocates; of the calling thread where nothing else is said.</summary>
    public Func<long> Allocated { get; init; } = GC.GetAllocatedBytesForCurrentThread;

    /// <summary>The committed finds of a target, as they were found.</summary>
    public static IEnumerable<byte[]> Finds(string name)
    {
        var assembly = Assembly.GetExecutingAssembly();
        foreach (string resource in assembly.GetManifestResourceNames().Where(r => r.StartsWith($"Finds/{name}/", StringComparison.Ordinal)).Order(StringComparer.Ordinal))
        {
            using Stream stream = assembly.GetManifestResourceStream(resource)!;
            byte[] bytes = new byte[stream.Length];
            stream.ReadExactly(bytes);
            yield return bytes;
        }
    }

    /// <summary>Tries the committed finds, then the inputs; fails with every find, once for each place it comes
    /// from.</summary>
    public void Run()
    {
        int count = Wanted ?? Inputs;
        string last = Path.Combine(Path.GetTempPath(), $"native-fuzz-{name}.last");
        File.WriteAllBytes(last, new byte[1 << 20]);
        // Mapped, so that the input that ends the process (a stack overflow, a stray address) can be read after it.
        using (var mapped = MemoryMappedFile.CreateFromFile(last, FileMode.Open))
        using (MemoryMappedViewAccessor view = mapped.CreateViewAccessor())
        {
            Exception? fault = null;
            var loop = new Thread(() =>
            {
                try
                {
                    Loop(count, view);
                }
                catch (Exception e)
                {
                    fault = e;
                }
            }, StackBytes)
            { IsBackground = true, Name = $"fuzz {name}" };
            _since = Environment.TickCount64;
            loop.Start();
            while (!loop.Join(500))
            {
                TestContext.Current.CancellationToken.ThrowIfCancellationRequested();
                long number = Volatile.Read(ref _current);
                if (Environment.TickCount64 - Volatile.Read(ref _since) > Deadline.TotalMilliseconds && number == Volatile.Read(ref _current))
                {
                    Report("hang", number, number < 0 ? Finds(name).ElementAtOrDefault((int)(-1 - number)) ?? [] : Draw(number), $"not done after {Deadline.TotalSeconds} s");
                    Assert.Fail(Summary());
                }
            }
            Assert.True(fault is null, fault?.ToString());
        }
        File.Delete(last);
        TestContext.Current.TestOutputHelper?.WriteLine(Summary());
        Assert.True(_finds.Count == 0, Summary());
        if (count < 1000) return;
        // Inputs that are all taken, or all refused at the door, would try nothing.
        Assert.True(_taken > _done / 200, $"{name}: of {_done} inputs only {_taken} were taken");
        Assert.True(_taken < _done - _done / 200, $"{name}: of {_done} inputs all but {_done - _taken} were taken");
    }

    private void Loop(int count, MemoryMappedViewAccessor view)
    {
        long number = -1;
        foreach (byte[] find in Finds(name)) Try(find, number--, view);
        for (number = First; number < (long)First + count && _finds.Count < MaxReported; number++) Try(Draw(number), number, view);
    }

    /// <summary>The same for the same target, seed and number, whoever asks.</summary>
    private byte[] Draw(long number)
    {
        uint hash = 2166136261;
        foreach (byte b in Encoding.UTF8.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{name} {Seed} {number}"))) hash = (hash ^ b) * 16777619;
        return draw(new Random((int)hash));
    }

    private void Try(byte[] input, long number, MemoryMappedViewAccessor view)
    {
        view.Write(0, input.Length);
        view.WriteArray(4, input, 0, (int)Math.Min(input.Length, view.Capacity - 4));
        Volatile.Write(ref _since, Environment.TickCount64);
        Volatile.Write(ref _current, number);
        _done++;
        long allocated = Measure(input, number, out bool taken), allowed = AllocationBase + (long)AllocationPerByte * input.Length;
        if (taken) _taken++;
        // What is made once, a table or a compiled pattern, is not this input's: what stands out is measured again.
        if ((double)allocated / allowed > _worst.Share) allocated = Math.Min(allocated, Measure(input, number, out _));
        double share = (double)allocated / allowed;
        if (share > _worst.Share) _worst = (share, allocated, input.Length, number);
        if (input.Length >= LongInput) _perByte = Math.Max(_perByte, (double)allocated / input.Length);
        if (allocated > allowed) Report("allocation", number, input, $"{allocated} bytes were allocated for {input.Length}, expected at most {AllocationBase} + {AllocationPerByte} x {input.Length} = {allowed}");
    }

    private long Measure(byte[] input, long number, out bool taken)
    {
        taken = false;
        long before = Allocated();
        try
        {
            run(input);
            taken = true;
        }
        catch (Exception e) when (Refuses(e))
        {
        }
        catch (Exception e)
        {
            Report($"{e.GetType()} {Place(e)}", number, input, e.ToString());
        }
        return Allocated() - before;
    }

    /// <summary>Our own innermost line, by which finds are told apart.</summary>
    private static string Place(Exception e) =>
        e.StackTrace?.Split('\n').FirstOrDefault(line => line.Contains(" Native.", StringComparison.Ordinal))?.Trim() ?? "";

    private void Report(string signature, long number, byte[] input, string what)
    {
        if (!_finds.TryAdd(signature, "") || _finds.Count > MaxReported) return;
        string path = Path.Combine(Path.GetTempPath(), string.Create(CultureInfo.InvariantCulture, $"native-fuzz-{name}-{Seed}-{number}"));
        File.WriteAllBytes(path, input);
        string bytes = Convert.ToBase64String(input.AsSpan(0, Math.Min(input.Length, 3000)));
        _finds[signature] = $"\n--- {name}, seed {Seed}, input {number}, {input.Length} bytes in {path}\n{what}\n{bytes}{(input.Length > 3000 ? "..." : "")}";
    }

    private string Summary() => string.Create(CultureInfo.InvariantCulture,
        $"{name}: {_done} inputs with seed {Seed}, {_taken} taken, {_finds.Count} finds; most memory: {_worst.Bytes} bytes for an input of {_worst.Length} (number {_worst.Number}), {_worst.Share:P0} of what is allowed; {_perByte:F1} bytes a byte in inputs of {LongInput} and more{string.Concat(_finds.Values)}");

    private static int? Number(string variable) => int.TryParse(Environment.GetEnvironmentVariable(variable), NumberStyles.Integer, CultureInfo.InvariantCulture, out int value) ? value : null;
}
