using System.Diagnostics;
using System.Globalization;
using Native.Kernels.Sampling;
using Native.Scheduling;

namespace Native.Server.Serving;

/// <summary>One token of one choice with the parts it made certain, or a choice's end, or both.</summary>
internal readonly record struct Piece
{
    /// <summary>Which of the n choices.</summary>
    public required int Index { get; init; }

    /// <summary>The id, or -1 where there is only an end.</summary>
    public required int Token { get; init; }

    /// <summary>
    /// What is certain now. Read it before the next piece of the same choice, which may overwrite it.
    /// </summary>
    public required ReadOnlyMemory<Part> Parts { get; init; }

    /// <summary>The content among the parts.</summary>
    public string Content => Parts.Length == 0 ? "" : Parts.Span[0].Text;

    public float Logprob { get; init; }

    public ReadOnlyMemory<TokenLogprob> Alternatives { get; init; }

    /// <summary>Stop or Length with a choice's last piece; None before.</summary>
    public FinishReason Finish { get; init; }

    /// <summary>True for the end or stop id itself: counted, but no text.</summary>
    public bool IsStopToken { get; init; }

    public string? MatchedStop { get; init; }
}

/// <summary>
/// The path every protocol shares: ids to the engine, tokens back, text out of them. Read like a
/// <see cref="TokenStream"/>: <see cref="WaitAsync"/> until there is something, then <see cref="TryRead"/> until there
/// is nothing. One reader at a time.
/// </summary>
internal sealed class Generation : IDisposable
{
    /// <summary>Most stop texts of a request: every character is compared with each. OpenAI allows 4; evaluation
    /// harnesses use more.</summary>
    public const int MaxStops = 64;

    /// <summary>Longest stop text, in characters.</summary>
    public const int MaxStopLength = 1024;

    /// <summary>OpenAI's word for a prompt that is too long.</summary>
    public const string ContextLengthExceeded = "context_length_exceeded";

    /// <summary>The code of a request that the whole KV cache could not hold.</summary>
    public const string KvCacheExceeded = "kv_cache_exceeded";

    private readonly TokenStream _stream;
    private readonly Engine _engine;
    private readonly OutputParser[] _outputs; // one for each choice
    private readonly bool[] _ended;
    private readonly Action<TimeSpan>? _firstToken;
    private readonly long _arrival;
    private bool _sawToken;

    private Generation(TokenStream stream, ServedModel model, TextRequest request, Action<TimeSpan>? firstToken)
    {
        (_stream, _engine) = (stream, model.Engine);
        _arrival = request.Tokens.ArrivalTimestamp ?? Stopwatch.GetTimestamp();
        _firstToken = firstToken;
        Ids = request.Tokens.Ids;
        _outputs = new OutputParser[stream.N];
        for (int i = 0; i < _outputs.Length; i++) _outputs[i] = new OutputParser(model.Tokenizer, request);
        _ended = new bool[stream.N];
    }

    /// <summary>The prompt.</summary>
    public ReadOnlyMemory<int> Ids { get; }

    /// <summary>Tokens read so far over all choices, stop ids among them; what the engine computed past a stop text is
    /// not counted.</summary>
    public int CompletionTokens { get; private set; }

    /// <summary>When things happened. Complete once <see cref="WaitAsync"/> has returned false.</summary>
    public RequestTimings Timings => _stream.Timings;

    /// <summary>As <see cref="TokenStream.PromptLogprobs"/>.</summary>
    public ReadOnlySpan<float> PromptLogprobs => _stream.PromptLogprobs;

    /// <summary>As <see cref="TokenStream.PromptAlternatives"/>.</summary>
    public ReadOnlySpan<TokenLogprob> PromptAlternatives(int position) => _stream.PromptAlternatives(position);

    /// <summary>Hands prompts of one sender to the engine, all of them or none.</summary>
    /// <param name="model">Whose engine.</param>
    /// <param name="requests">What is wanted.</param>
    /// <param name="events">Who hears of their first tokens or refusal, if anybody.</param>
    /// <exception cref="RequestException">The engine refuses them.</exception>
    public static Generation[] Start(
        ServedModel model, IReadOnlyList<TextRequest> requests, RequestEvents? events = null)
    {
        SubmitOutcome outcome = SubmitOutcome.Invalid;
        RequestException? wrong =
            requests.Select(request => WrongStop(request.Stop)).FirstOrDefault(found => found is not null);
        if (wrong is null)
        {
            outcome = model.Engine.Submit([.. requests.Select(request => request.Tokens)],
                out TokenStream[] streams, out int refused, out Refusal refusal);
            if (outcome == SubmitOutcome.Accepted)
                return [.. streams.Zip(requests, (stream, request) =>
                    new Generation(stream, model, request, events?.FirstToken))];
            TextRequest first = requests[refused];
            wrong = ExceptionOf(model, first.Tokens, first.PromptField, outcome, refusal);
        }
        foreach (TextRequest _ in requests) events?.Refused(outcome);
        throw wrong;
    }

    /// <summary>Waits until <see cref="TryRead"/> has something. False once every choice has ended and the engine is
    /// done with the request.</summary>
    /// <exception cref="OperationCanceledException"><paramref name="ct"/> was cancelled; dispose of this then, which
    /// stops the computation.</exception>
    public ValueTask<bool> WaitAsync(CancellationToken ct) => _stream.WaitAsync(ct);

    /// <summary>Takes the next piece; false where there is none yet.</summary>
    /// <exception cref="RequestException">The request failed: its deadline passed, the server shuts down, or the
    /// computation broke.</exception>
    public bool TryRead(out Piece piece)
    {
        while (_stream.TryRead(out TokenEvent e))
        {
            if (_ended[e.Index]) continue; // computed before the engine heard of the stop text
            if (!_sawToken && e.Token >= 0)
            {
                _sawToken = true;
                _firstToken?.Invoke(Stopwatch.GetElapsedTime(_arrival));
            }
            piece = Read(e);
            return true;
        }
        piece = default;
        return false;
    }

    /// <summary>Stops the computation at the next step boundary where it has not ended.</summary>
    public void Dispose() => _stream.Dispose();

    /// <summary>Whether a step had the request.</summary>
    private bool HasBegun => _stream.Timings.FirstScheduled != 0;

    private Piece Read(in TokenEvent e)
    {
        FinishReason finish = e.Finish;
        switch (finish)
        {
            case FinishReason.None or FinishReason.Stop or FinishReason.Length: break;
            case FinishReason.Deadline:
                throw new RequestException(Failure.DeadlineExceeded, "The request's deadline passed.",
                    code: "deadline_exceeded")
                { Dropped = HasBegun ? DroppedReason.Evicted : DroppedReason.Expired };
            case FinishReason.Aborted:
                throw new RequestException(Failure.Unavailable, "The server is shutting down.", code: "draining")
                { Dropped = HasBegun ? DroppedReason.Evicted : DroppedReason.ShuttingDown };
            case FinishReason.Cancelled:
                throw new RequestException(Failure.Cancelled, "The request was cancelled.", code: "cancelled");
            case FinishReason.Error when _engine.Fault is { } fault:
                throw RequestException.DeviceLost(fault, HasBegun);
            default:
                throw new RequestException(Failure.Internal, "The model's computation failed.",
                code: "step_failed");
        }
        if (e.Token >= 0) CompletionTokens++;
        OutputParser output = _outputs[e.Index];
        ReadOnlyMemory<Part> parts = output.Take(e.IsStopToken ? -1 : e.Token, ends: finish != FinishReason.None);
        if (output.Stopped)
        {
            if (finish == FinishReason.None) _stream.Stop(e.Index);
            finish = FinishReason.Stop;
        }
        _ended[e.Index] = finish != FinishReason.None;
        return new Piece
        {
            Index = e.Index,
            Token = e.Token,
            Parts = parts,
            Logprob = e.Logprob,
            Alternatives = e.Alternatives,
            Finish = finish,
            IsStopToken = e.IsStopToken,
            MatchedStop = output.MatchedStop,
        };
    }

    private static RequestException? WrongStop(IReadOnlyList<string> stops)
    {
        if (stops.Count > MaxStops)
            return RequestException.Invalid($"stop has {stops.Count} texts; at most {MaxStops} are allowed.", "stop");
        return stops.FirstOrDefault(stop => stop.Length is 0 or > MaxStopLength) is not { } wrong ? null
            : RequestException.Invalid(
                $"A stop text has {wrong.Length} characters; it must have 1 to {MaxStopLength}.", "stop");
    }

    private static RequestException ExceptionOf(ServedModel model, GenerationRequest request, string promptField,
        SubmitOutcome outcome, Refusal refusal)
    {
        switch (outcome)
        {
            case SubmitOutcome.QueueFull:
                return new RequestException(Failure.QueueFull, "The queue is full; try again later.",
                    code: "queue_full")
                {
                    RetryAfter = refusal.RetryAfter,
                };
            case SubmitOutcome.WouldBeLate:
                return new RequestException(Failure.QueueFull, TellLate(refusal), code: "would_be_late")
                {
                    RetryAfter = refusal.RetryAfter,
                };
            case SubmitOutcome.OverQuota:
                return new RequestException(Failure.QueueFull,
                    $"Tenant '{RequestException.Quoted(request.Tenant)}' has too little left of its quota ("
                        + $"{refusal.Quota}); try again later.", code: "rate_limit_exceeded")
                {
                    RetryAfter = refusal.RetryAfter,
                };
            case SubmitOutcome.Shed:
                return new RequestException(Failure.QueueFull,
                    "Online requests miss their objectives, so batch work is not taken now; try again later.",
                    code: "budget_burning")
                {
                    RetryAfter = refusal.RetryAfter,
                };
            case SubmitOutcome.Broken: return RequestException.DeviceLost(model.Engine.Fault!);
            case SubmitOutcome.Draining:
                return new RequestException(Failure.Unavailable, "The server is shutting down.", code: "draining")
                {
                    RetryAfter = TimeSpan.FromSeconds(1),
                    Dropped = DroppedReason.ShuttingDown,
                };
            case SubmitOutcome.TooLong:
                return TooLong(model, request.Ids.Length, promptField);
            case SubmitOutcome.NeverFits:
                return RequestException.Invalid(
                    $"The prompt's {request.Ids.Length} tokens and max_tokens of {request.Sampling.MaxTokens} "
                    + $"need more KV blocks than the {model.Info.BlockCount} of {model.Info.BlockSize} tokens "
                    + "there are.",
                    "max_tokens", KvCacheExceeded);
            default:
                List<string> errors = [];
                model.Engine.Validate(request, errors);
                return Wrong(errors, promptField);
        }
    }

    /// <summary>When the first token would come, and when it was to.</summary>
    private static string TellLate(in Refusal refusal)
    {
        string margin = refusal.Latest >= refusal.Due ? "" : string.Create(CultureInfo.InvariantCulture,
            $" (forecasts scatter: {refusal.Latest.TotalSeconds:F2} s would do)");
        return string.Create(CultureInfo.InvariantCulture,
            $"The first token is expected in about {refusal.FirstToken.TotalSeconds:F2} s and due in "
                + $"{refusal.Due.TotalSeconds:F2} s{margin}; the prompt alone takes about "
                + $"{refusal.Alone.TotalSeconds:F2} s; try again later.");
    }

    /// <summary>What is told of a prompt that no sequence can hold.</summary>
    /// <param name="model">Whose context is too short.</param>
    /// <param name="count">The prompt's tokens.</param>
    /// <param name="promptField">The field the prompt came in.</param>
    public static RequestException TooLong(ServedModel model, int count, string promptField) =>
        RequestException.Invalid(
            $"The prompt has {count} tokens, but a sequence may have {model.Info.MaxModelLength}, prompt and output "
                + "together.", promptField, ContextLengthExceeded);

    /// <summary>What is told of parameters out of their ranges.</summary>
    /// <param name="errors">A sentence each.</param>
    /// <param name="promptField">The field the prompt came in.</param>
    public static RequestException Wrong(List<string> errors, string promptField) =>
        RequestException.Invalid(string.Join(" ", errors.Take(10)), ParamOf(errors.FirstOrDefault(""), promptField));

    /// <summary>The field a sentence speaks of: its first word where that is a field's name ("top_p is 2;
    /// ...").</summary>
    private static string? ParamOf(string sentence, string promptField)
    {
        string word = sentence.Split(' ', 2)[0];
        if (sentence.StartsWith("The prompt", StringComparison.Ordinal)) return promptField;
        return word.Length > 0 && word.All(c => char.IsAsciiLetterLower(c) || c == '_') ? word : null;
    }
}
