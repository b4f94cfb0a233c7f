using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Native.Bench.Serve;
using Native.Server.Http;
using Native.Tools;

namespace Native.Bench.Soak;

/// <summary>How a soak was asked for.</summary>
internal sealed record SoakOptions
{
    public required TimeSpan Duration { get; init; }

    /// <summary>Requests under way at once: each client asks its next when one ends.</summary>
    public required int Clients { get; init; }

    public required int Seed { get; init; }

    /// <summary>How long the server may take to be at rest afterwards: idle pool threads and connections take some
    /// seconds to go.</summary>
    public TimeSpan RestTime => TimeSpan.FromSeconds(Math.Clamp(Duration.TotalSeconds, 5, 45));

    /// <summary>From one sample to the next: a hundredth of the whole, within what a server can answer and a picture
    /// needs.</summary>
    public TimeSpan SampleInterval => TimeSpan.FromSeconds(Math.Clamp(Duration.TotalSeconds / 100, 0.2, 5));
}

/// <summary>The server at one moment, and what clients measured since the sample before. Counters are totals; NaN where
/// the server doesn't tell.</summary>
internal sealed record SoakSample
{
    /// <summary>Seconds after the beginning.</summary>
    public required double Time { get; init; }

    public required double ResidentBytes { get; init; }

    /// <summary>Of the managed heap, after its last collection.</summary>
    public required double HeapBytes { get; init; }

    public required double Handles { get; init; }

    public required double Threads { get; init; }

    public required double BlocksUsed { get; init; }

    public required double BlocksFree { get; init; }

    public required double Running { get; init; }

    public required double Waiting { get; init; }

    public required double GeneratedTokens { get; init; }

    public required double FailedSteps { get; init; }

    public required double DecodeSteps { get; init; }

    public required double DecodeStepAllocatedBytes { get; init; }

    public required double StepLockContentions { get; init; }

    /// <summary>Of the whole process: Kestrel's and the runtime's own among them.</summary>
    public required double LockContentions { get; init; }

    public required double Preemptions { get; init; }

    /// <summary>Seconds; of the requests whose first token came in this interval.</summary>
    public IReadOnlyList<double> Ttft { get; init; } = [];

    /// <summary>Seconds; of the tokens that came in this interval.</summary>
    public IReadOnlyList<double> Itl { get; init; } = [];

    public static SoakSample Of(double time, IReadOnlyDictionary<string, double> metrics)
    {
        double Value(string series) => metrics.TryGetValue(series, out double value) ? value : double.NaN;
        return new SoakSample
        {
            Time = time,
            ResidentBytes = Value("process_resident_memory_bytes"),
            HeapBytes = Value("native_gc_heap_bytes"),
            Handles = Value("process_open_fds"),
            Threads = Value("process_threads"),
            BlocksUsed = Value("native_kv_blocks{state=\"used\"}"),
            BlocksFree = Value("native_kv_blocks{state=\"free\"}"),
            Running = Value("native_requests_running"),
            Waiting = Value("native_requests_waiting"),
            GeneratedTokens = Value("native_generation_tokens_total"),
            FailedSteps = Value("native_failed_steps_total"),
            DecodeSteps = Value("native_decode_steps_total"),
            DecodeStepAllocatedBytes = Value("native_decode_step_allocated_bytes_total"),
            StepLockContentions = Value("native_step_lock_contentions_total"),
            LockContentions = Value("native_lock_contentions_total"),
            Preemptions = Value("native_preemptions_total"),
        };
    }
}

/// <summary>What clients hold a server to in every single answer.</summary>
internal enum SoakPromise
{
    Answers,
    Refusals,
    Endings,
    Counts,
    SameText,
}

/// <summary>What came of a soak.</summary>
internal sealed record SoakResult
{
    public required SoakOptions Options { get; init; }

    public required string Model { get; init; }

    /// <summary>Seconds from the first request to the last answer.</summary>
    public required double Duration { get; init; }

    /// <summary>Before any load.</summary>
    public required SoakSample Before { get; init; }

    /// <summary>Under load.</summary>
    public required IReadOnlyList<SoakSample> Samples { get; init; }

    /// <summary>After it, once the server was at rest, or had not come to rest in its time.</summary>
    public required SoakSample After { get; init; }

    public required IReadOnlyDictionary<SoakKind, int> Requests { get; init; }

    /// <summary>Answers that were compared with an earlier one to the same case.</summary>
    public required int Compared { get; init; }

    /// <summary>Each promise's breaches: what was wrong, and how often.</summary>
    public required IReadOnlyDictionary<SoakPromise, IReadOnlyDictionary<string, int>> Breaches { get; init; }

    /// <summary>How the server ended; null where it is not the soak's own.</summary>
    public (int? ExitCode, string Log)? End { get; init; }
}

/// <summary>Clients that ask a server for a while, each the next thing when one is answered, and check every
/// answer.</summary>
internal sealed class SoakRun(SoakServer server, SoakOptions options)
{
    private const int MaxMessage = 300, MaxMessages = 20;

    private static readonly TimeSpan RequestTime = TimeSpan.FromMinutes(2);

    private readonly ConcurrentDictionary<int, string> _answers = new();
    private readonly Dictionary<SoakKind, int> _requests = [];
    private readonly Dictionary<SoakPromise, Dictionary<string, int>> _breaches = [];
    private readonly Lock _lock = new();
    private readonly long _began = Stopwatch.GetTimestamp();
    private List<double> _ttft = [], _itl = [];
    private int _compared;
    private volatile bool _over;

    private double Now => Stopwatch.GetElapsedTime(_began).TotalSeconds;

    /// <summary>Runs it.</summary>
    /// <param name="report">Told how much of 1 is done, and how it goes.</param>
    /// <param name="ct">Ends it, without a result.</param>
    public async Task<SoakResult> RunAsync(Action<double, string>? report, CancellationToken ct)
    {
        (string model, int maxModelLength) = await server.DescribeAsync(ct);
        SoakWorkload workload = await WarmUpAsync(model, maxModelLength, ct);
        SoakSample before = SoakSample.Of(0, await server.MetricsAsync(ct));
        double began = Now;
        List<SoakSample> samples = [];
        using (SoakClient client = new(server.Http, server.Grpc, model))
        {
            Task[] clients =
                [.. Enumerable.Range(0, options.Clients)
                    .Select(i =>
                        Task.Run(() => ClientAsync(client, workload, new Random(HashCode.Combine(options.Seed, i)), ct),
                            ct))];
            for (int i = 1; Now - began < options.Duration.TotalSeconds; i++)
            {
                double next =
                    Math.Min(began + i * options.SampleInterval.TotalSeconds, began + options.Duration.TotalSeconds);
                if (next > Now) await Task.Delay(TimeSpan.FromSeconds(next - Now), ct);
                if (await SampleAsync(began, ct) is { } sample) samples.Add(sample);
                report?.Invoke((Now - began) / options.Duration.TotalSeconds, Progress(samples));
            }
            _over = true;
            await Task.WhenAll(clients);
        }
        double duration = Now - began;
        SoakSample after = await RestAsync(before, began, ct);
        lock (_lock)
        {
            return new SoakResult
            {
                Options = options,
                Model = model,
                Duration = duration,
                Before = before,
                Samples = samples,
                After = after,
                Requests = new Dictionary<SoakKind, int>(_requests),
                Compared = _compared,
                Breaches = Enum.GetValues<SoakPromise>().ToDictionary(promise => promise,
                    promise => (IReadOnlyDictionary<string, int>)_breaches.GetValueOrDefault(promise, [])),
            };
        }
    }

    /// <summary>One request by each protocol, so that what is made once is made; also finds out whether the model
    /// chats.</summary>
    private async Task<SoakWorkload> WarmUpAsync(string model, int maxModelLength, CancellationToken ct)
    {
        using SoakClient client = new(server.Http, server.Grpc, model);
        SoakWorkload workload = new(options.Seed, maxModelLength, chats: true);
        try
        {
            foreach (SoakTransport transport in client.Transports)
                await client.AskAsync(workload.DrawCase(SoakKind.Short, new Random(0)), transport, new SoakAnswer(1),
                    () => ValueTask.CompletedTask, ct);
        }
        catch (Exception e) when (e is RequestFailedException or HttpRequestException or IOException or JsonException
            or KeyNotFoundException or InvalidOperationException)
        {
            throw new CommandException($"the server did not answer the first request: {e.Message}");
        }
        try
        {
            await client.AskAsync(workload.DrawCase(SoakKind.Chat, new Random(0)), SoakTransport.OpenAi,
                new SoakAnswer(1), () => ValueTask.CompletedTask, ct);
            return workload;
        }
        catch (RequestFailedException)
        {
            return new SoakWorkload(options.Seed, maxModelLength, chats: false);
        }
    }

    private async Task ClientAsync(SoakClient client, SoakWorkload workload, Random random, CancellationToken ct)
    {
        while (!_over)
        {
            SoakKind kind = workload.DrawKind(random);
            try
            {
                if (kind == SoakKind.BadRequest)
                    await RefusalAsync(client.Refusals[random.Next(client.Refusals.Count)], ct);
                else await RequestAsync(client, kind, workload.DrawCase(kind, random),
                    client.Transports[random.Next(client.Transports.Count)], random, ct);
            }
            catch (Exception e) when (!ct.IsCancellationRequested && IsOfAnswer(e))
            {
                Breach(SoakPromise.Answers, $"{kind}: {e.Message}");
                await Task.Delay(100, ct); // a server that answers nobody is asked no faster for it
            }
            lock (_lock) _requests[kind] = _requests.GetValueOrDefault(kind) + 1;
        }
    }

    private static bool IsOfAnswer(Exception e) =>
        e is RequestFailedException or HttpRequestException or IOException or OperationCanceledException
            or Grpc.Core.RpcException
        or JsonException or KeyNotFoundException or InvalidOperationException or IndexOutOfRangeException
            or FormatException;

    private async Task RefusalAsync(SoakRefusal refusal, CancellationToken ct)
    {
        using CancellationTokenSource limited = CancellationTokenSource.CreateLinkedTokenSource(ct);
        limited.CancelAfter(RequestTime);
        string status = await refusal.SendAsync(limited.Token);
        if (status != refusal.Expected)
            Breach(SoakPromise.Refusals, $"{refusal.Name}: {status}, not {refusal.Expected}");
    }

    private async Task RequestAsync(SoakClient client, SoakKind kind, SoakCase asked, SoakTransport transport,
        Random random, CancellationToken ct)
    {
        using CancellationTokenSource leaving = CancellationTokenSource.CreateLinkedTokenSource(ct);
        leaving.CancelAfter(RequestTime);
        bool left = false;
        int leaveAfter = int.MaxValue;
        if (kind == SoakKind.Cancel && transport != SoakTransport.OpenAi) leaveAfter = random.Next(1, 12);
        else if (kind is SoakKind.Cancel or SoakKind.Abandon)
        {
            left = true; // or done before
            leaving.CancelAfter(random.Next(0, kind == SoakKind.Abandon ? 40 : 150));
        }
        bool timed = kind is not (SoakKind.SlowReader or SoakKind.Choices) && transport != SoakTransport.OpenAi;
        SoakAnswer answer = new(asked.N);
        int pieces = 0;
        double sent = Now, last = sent;
        try
        {
            await client.AskAsync(asked, transport, answer, OnPiece, leaving.Token);
        }
        catch (RequestFailedException e) when (kind == SoakKind.TooLong)
        {
            string expected = transport == SoakTransport.Grpc ? "InvalidArgument:" : "400:";
            if (!e.Message.StartsWith(expected, StringComparison.Ordinal))
                Breach(SoakPromise.Refusals, $"a prompt past the context: {e.Message}, not {expected[..^1]}");
            return;
        }
        catch (Exception e) when (left && !ct.IsCancellationRequested && leaving.IsCancellationRequested
            && IsOfAnswer(e))
        {
            CheckBeginning(asked, transport, answer);
            return;
        }
        catch (OperationCanceledException) when (!ct.IsCancellationRequested)
        {
            Breach(SoakPromise.Answers, $"{kind}: no end after {RequestTime.TotalSeconds} s");
            return;
        }
        if (kind == SoakKind.TooLong)
            Breach(SoakPromise.Refusals, $"a prompt past the context was answered: {answer.Tokens} tokens");
        else Check(asked, transport, answer);

        async ValueTask OnPiece()
        {
            double now = Now;
            pieces++;
            if (timed) lock (_lock) (pieces == 1 ? _ttft : _itl).Add(now - last);
            last = now;
            if (pieces >= leaveAfter)
            {
                left = true;
                await leaving.CancelAsync();
            }
            if (kind == SoakKind.SlowReader && now - sent < 3) await Task.Delay(random.Next(10, 60), leaving.Token);
        }
    }

    /// <summary>Holds a whole answer to everything that must be so, and to the first answer to the same case.</summary>
    private void Check(SoakCase asked, SoakTransport transport, SoakAnswer answer)
    {
        string who = $"case {asked.Number} by {transport}";
        if (answer.Tokens == 0) Breach(SoakPromise.Answers, $"{who}: no token");
        for (int i = 0; i < asked.N; i++)
        {
            if (answer.Finishes[i] is not ("stop" or "length"))
                Breach(SoakPromise.Endings, $"{who}: choice {i} ended with '{answer.Finishes[i]}', not stop or length");
            if (asked.Stop is { } stop && answer.Texts[i].ToString().Contains(stop, StringComparison.Ordinal))
                Breach(SoakPromise.Endings, $"{who}: the stop text '{stop}' was sent");
        }
        if (asked.N == 1
            && (answer.Finishes[0] == "length" ? answer.Tokens != asked.MaxTokens : answer.Tokens > asked.MaxTokens))
            Breach(SoakPromise.Endings,
                $"{who}: ended with '{answer.Finishes[0]}' after {answer.Tokens} tokens of {asked.MaxTokens}");
        if (answer.CompletionTokens != answer.Tokens)
            Breach(SoakPromise.Counts,
                $"{who}: the usage has {answer.CompletionTokens} tokens, but {answer.Tokens} came");
        if (asked.Logprobs is not null)
        {
            // OpenAI's protocol leaves end tokens out.
            int least = transport == SoakTransport.Grpc ? answer.Tokens : answer.Tokens - asked.N;
            if (answer.Logprobs < least || answer.Logprobs > answer.Tokens)
                Breach(SoakPromise.Counts, $"{who}: {answer.Logprobs} log-probabilities of {answer.Tokens} tokens");
            if (answer.WrongLogprob is { } wrong) Breach(SoakPromise.Counts, $"{who}: a log-probability is {wrong}");
        }
        string said = Said(answer), first = _answers.GetOrAdd(asked.Number, said);
        if (ReferenceEquals(first, said)) return;
        Interlocked.Increment(ref _compared);
        if (said != first) Breach(SoakPromise.SameText, $"{who}: {Difference(first, said)}");
    }

    /// <summary>Holds what came before the client left to the beginning of the whole.</summary>
    private void CheckBeginning(SoakCase asked, SoakTransport transport, SoakAnswer answer)
    {
        if (asked.N != 1 || !_answers.TryGetValue(asked.Number, out string? first)) return;
        string said = answer.Texts[0].ToString();
        Interlocked.Increment(ref _compared);
        if (!first.StartsWith(said, StringComparison.Ordinal))
            Breach(SoakPromise.SameText, $"case {asked.Number} by {transport}, left early: {Difference(first, said)}");
    }

    /// <summary>The texts first, so that the beginning of a text is one of this; then how each choice ended, and the
    /// tokens.</summary>
    private static string Said(SoakAnswer answer) =>
        $"{string.Join('\u0001', answer.Texts.Select(text => text.ToString()))}\u0001{string.Join(' ', answer.Finishes)} {answer.Tokens}";

    private static string Difference(string first, string then)
    {
        int at = first.AsSpan().CommonPrefixLength(then);
        string Around(string text) => text[Math.Max(0, at - 20)..Math.Min(text.Length, at + 20)];
        return $"differs from character {at} on: '{Around(then)}', at first '{Around(first)}'";
    }

    private void Breach(SoakPromise promise, string message)
    {
        message = message.Length <= MaxMessage ? message : message[..MaxMessage] + "...";
        lock (_lock)
        {
            if (!_breaches.TryGetValue(promise, out Dictionary<string, int>? messages))
                _breaches[promise] = messages = [];
            if (!messages.ContainsKey(message) && messages.Count >= MaxMessages) message = "others";
            messages[message] = messages.GetValueOrDefault(message) + 1;
        }
    }

    private async Task<SoakSample?> SampleAsync(double began, CancellationToken ct)
    {
        try
        {
            Dictionary<string, double> metrics = await server.MetricsAsync(ct);
            lock (_lock)
            {
                SoakSample sample = SoakSample.Of(Now - began, metrics) with { Ttft = _ttft, Itl = _itl };
                (_ttft, _itl) = ([], []);
                return sample;
            }
        }
        catch (Exception e) when (!ct.IsCancellationRequested && e is HttpRequestException or TaskCanceledException)
        {
            Breach(SoakPromise.Answers, $"/metrics: {e.Message}");
            return null;
        }
    }

    /// <summary>Waits until nothing runs, every block is free and as many handles are open as before, as long as there
    /// is time.</summary>
    private async Task<SoakSample> RestAsync(SoakSample before, double began, CancellationToken ct)
    {
        double end = Now + options.RestTime.TotalSeconds;
        while (true)
        {
            SoakSample? sample = await SampleAsync(began, ct);
            bool rests =
                sample is { Running: 0, Waiting: 0, BlocksUsed: 0 } && !(sample.Handles > before.Handles)
                    && !(sample.Threads > before.Threads);
            if (sample is not null && (rests || Now > end)) return sample;
            // it answers no more, which is told
            if (Now > end) return before with { Time = Now - began, BlocksUsed = double.NaN, Running = double.NaN };
            await Task.Delay(200, ct);
        }
    }

    private string Progress(List<SoakSample> samples)
    {
        int wrong, requests;
        lock (_lock)
            (wrong, requests) = (_breaches.Values.Sum(messages => messages.Values.Sum()), _requests.Values.Sum());
        double rate =
            samples.Count < 2 ? 0
                : (samples[^1].GeneratedTokens - samples[^2].GeneratedTokens) / (samples[^1].Time - samples[^2].Time);
        return string.Create(CultureInfo.InvariantCulture,
            $"{requests} requests, {wrong} wrong, {rate:0} tokens/s, {(samples.Count == 0 ? 0 : samples[^1].ResidentBytes / (1 << 20)):0} MiB");
    }
}
