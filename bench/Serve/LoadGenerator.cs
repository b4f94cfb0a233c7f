namespace Native.Bench.Serve;

/// <summary>Sends requests and records when their answers came.</summary>
/// <param name="client">Asks the server.</param>
/// <param name="clock">Tells the time and waits.</param>
internal sealed class LoadGenerator(IServingClient client, TimeProvider clock)
{
    /// <summary>Requests under way at most; more wait here. Null for any number.</summary>
    public int? MaxConcurrency { get; init; }

    /// <summary>A request that takes longer has failed.</summary>
    public TimeSpan RequestTimeout { get; init; } = TimeSpan.FromSeconds(600);

    /// <summary>After this nothing more is sent, and what is under way has failed.</summary>
    public TimeSpan MaxDuration { get; init; } = TimeSpan.FromSeconds(3600);

    /// <summary>Open loop: each request is to be sent at its time, and its latencies begin then, even where it has to
    /// wait for <see cref="MaxConcurrency"/>.</summary>
    /// <param name="prompts">What is asked.</param>
    /// <param name="intended">When, in seconds after the beginning, ascending; one for each prompt.</param>
    /// <param name="done">Told how many are over.</param>
    /// <param name="ct">Ends the run.</param>
    /// <returns>One record for each prompt in their order, and the seconds it all took.</returns>
    public Task<(RequestRecord[] Records, double Duration)> OpenLoopAsync(IReadOnlyList<Prompt> prompts,
        double[] intended, Action<int>? done, CancellationToken ct) => RunAsync(prompts, intended, done, ct);

    /// <summary>Closed loop: as many requests at once as <see cref="MaxConcurrency"/> allows, each begun when one
    /// before it ends.</summary>
    /// <param name="prompts">What is asked.</param>
    /// <param name="done">Told how many are over.</param>
    /// <param name="ct">Ends the run.</param>
    /// <returns>One record for each prompt in their order, and the seconds it all took.</returns>
    public Task<(RequestRecord[] Records, double Duration)> ClosedLoopAsync(
        IReadOnlyList<Prompt> prompts, Action<int>? done, CancellationToken ct) => RunAsync(prompts, null, done, ct);

    private async Task<(RequestRecord[] Records, double Duration)> RunAsync(
        IReadOnlyList<Prompt> prompts, double[]? intended, Action<int>? done, CancellationToken ct)
    {
        using SemaphoreSlim places = new(MaxConcurrency ?? int.MaxValue);
        using CancellationTokenSource over = new(MaxDuration, clock),
            run = CancellationTokenSource.CreateLinkedTokenSource(ct, over.Token);
        long began = clock.GetTimestamp();
        double Now() => clock.GetElapsedTime(began).TotalSeconds;
        int finished = 0;
        Task<RequestRecord>[] requests = new Task<RequestRecord>[prompts.Count];
        for (int i = 0; i < prompts.Count; i++)
        {
            if (intended is not null) await WaitUntilAsync(began, intended[i], run.Token);
            requests[i] = RequestAsync(prompts[i], intended?[i]);
        }
        RequestRecord[] records = await Task.WhenAll(requests);
        ct.ThrowIfCancellationRequested();
        return (records, records.Max(record => record.Done));

        async Task<RequestRecord> RequestAsync(Prompt prompt, double? intended)
        {
            List<double> pieces = [];
            double sent = Now();
            bool isSent = false;
            string? error = null;
            TokenCounts counts = default;
            try
            {
                await places.WaitAsync(run.Token);
                try
                {
                    using CancellationTokenSource timeout = new(RequestTimeout, clock),
                        request = CancellationTokenSource.CreateLinkedTokenSource(run.Token, timeout.Token);
                    run.Token.ThrowIfCancellationRequested(); // the end of the run is what frees a place, too
                    (sent, isSent) = (Now(), true);
                    counts = await client.SendAsync(prompt, () => pieces.Add(Now()), request.Token);
                }
                finally
                {
                    places.Release();
                }
            }
            catch (OperationCanceledException)
            {
                error = !over.IsCancellationRequested ? $"no end after {RequestTimeout.TotalSeconds:0.###} s"
                    : isSent ? $"not over when the run's {MaxDuration.TotalSeconds:0.###} s were"
                    : $"not sent: the run's {MaxDuration.TotalSeconds:0.###} s were over";
            }
            catch (Exception e) when (e is RequestFailedException or HttpRequestException or IOException)
            {
                error = e.Message;
            }
            double end = Now();
            if (pieces.Count == 0) pieces.Add(end);
            done?.Invoke(Interlocked.Increment(ref finished));
            return new RequestRecord
            {
                Start = intended ?? sent,
                Sent = sent,
                Done = end,
                TokenTimes = error is null ? pieces : [],
                InputTokens = counts.InputTokens ?? prompt.Ids?.Length ?? 0,
                OutputTokens = counts.OutputTokens ?? pieces.Count,
                Error = error,
            };
        }
    }

    private async Task WaitUntilAsync(long began, double time, CancellationToken ct)
    {
        try
        {
            // Timers count whole milliseconds: one that rang early is set again.
            for (double left; (left = time - clock.GetElapsedTime(began).TotalSeconds) > 0;)
                await Task.Delay(TimeSpan.FromMilliseconds(Math.Ceiling(left * 1000)), clock, ct);
        }
        catch (OperationCanceledException)
        {
            // Each request that is left says so itself.
        }
    }
}
