using System.Diagnostics;
using System.Text.RegularExpressions;
using Google.Protobuf;
using Grpc.Core;
using Native.Scheduling;
using Native.Server.Http;
using Native.Server.Serving;
using Native.Server.Tenancy;
using Native.V1;
using FinishReason = Native.Scheduling.FinishReason;
using SamplingParams = Native.Scheduling.SamplingParams;

namespace Native.Server.Grpc;

/// <summary>The service of <c>native.v1</c>; the messages' own comments tell what they mean.</summary>
internal sealed partial class InferenceService(
    ModelHost host, RequestEvents events, EngineOptions limits, KvEventStream kvEvents) : Inference.InferenceBase
{
    public override Task Generate(
        GenerateRequest request, IServerStreamWriter<GenerateResponse> responses, ServerCallContext context) =>
        Stream(request.Model, request.RequestId, model => MessageReader.Read(request, model), responses, context);

    public override Task Chat(
        ChatRequest request, IServerStreamWriter<GenerateResponse> responses, ServerCallContext context) =>
        Stream(request.Model, request.RequestId,
            model => MessageReader.Read(request, model, context.CancellationToken), responses, context);

    /// <summary>Characters that Tokenize takes: an answer needs about a hundred bytes for each.</summary>
    private const int MaxTokenizedLength = 1 << 20;

    public override Task<TokenizeResponse> Tokenize(TokenizeRequest request, ServerCallContext context)
    {
        ServedModel model = host.Require(request.Model);
        if (request.Text.Length > MaxTokenizedLength)
            throw new RequestException(Failure.TooLarge,
                $"text has {request.Text.Length} characters; at most {MaxTokenizedLength} are tokenized at once.",
                "text");
        context.CancellationToken.ThrowIfCancellationRequested();
        TokenizeResponse response = new();
        response.Ids.AddRange(
            model.Tokenizer.Encode(request.Text, !request.HasAddSpecial || request.AddSpecial, request.ParseSpecial));
        response.Pieces.AddRange(response.Ids.Select(id => ByteString.CopyFrom(model.BytesOf(id))));
        return Task.FromResult(response);
    }

    public override Task<DetokenizeResponse> Detokenize(DetokenizeRequest request, ServerCallContext context)
    {
        ServedModel model = host.Require(request.Model);
        foreach (int id in request.Ids)
            if ((uint)id >= (uint)model.Tokenizer.VocabularySize)
                throw RequestException.Invalid($"ids has {id}; ids are 0 to {model.Tokenizer.VocabularySize - 1}.",
                    "ids");
        return Task.FromResult(
            new DetokenizeResponse
            {
                Text =
                model.Tokenizer.Decode(request.Ids.ToArray(),
                    !request.HasSkipSpecialTokens || request.SkipSpecialTokens)
            });
    }

    public override Task<ListModelsResponse> ListModels(ListModelsRequest request, ServerCallContext context)
    {
        ListModelsResponse response = new();
        response.Models.Add(Describe(host.Require(null)));
        return Task.FromResult(response);
    }

    public override Task<GetServerInfoResponse> GetServerInfo(GetServerInfoRequest request, ServerCallContext context)
    {
        GetServerInfoResponse response = new()
        {
            Version = ServerInfo.Version,
            UptimeSeconds = Stopwatch.GetElapsedTime(host.StartedAt).TotalSeconds,
            State = host.State.ToString().ToLowerInvariant(),
            MaxNumSeqs = (uint)limits.MaxRunning,
            MaxNumBatchedTokens = (uint)limits.MaxBatchedTokens,
        };
        if (host.Model is not { } model) return Task.FromResult(response);
        EngineMetrics engine = model.Engine.Metrics;
        response.Backend = model.Info.Backend;
        response.RequestsRunning = (uint)engine.Running;
        response.RequestsWaiting = (uint)engine.Waiting;
        response.KvBlocksTotal = (uint)engine.TotalBlocks;
        response.KvBlocksFree = (uint)engine.FreeBlocks;
        response.BlockSize = (uint)model.Info.BlockSize;
        response.WeightBytes = (ulong)model.Info.WeightBytes;
        response.KvCacheBytes = (ulong)model.Info.KvCacheBytes;
        response.Models.Add(Describe(model));
        return Task.FromResult(response);
    }

    public override Task SubscribeKvEvents(
        SubscribeKvEventsRequest request, IServerStreamWriter<KvEventBatch> responses, ServerCallContext context) =>
        kvEvents.SendAsync(host.Require(null).Engine, request, responses, context);

    private static Model Describe(ServedModel model) => new()
    {
        Id = model.Name,
        Architecture = model.Info.Architecture,
        ParameterCount = (ulong)model.Info.ParameterCount,
        MaxModelLen = (uint)model.Info.MaxModelLength,
        VocabularySize = (uint)model.Info.VocabularySize,
        HasChatTemplate = model.Template is not null,
    };

    private async Task Stream(
        string modelName, string requestId, Func<ServedModel, TextRequest> read,
        IServerStreamWriter<GenerateResponse> responses, ServerCallContext context)
    {
        long arrival = Stopwatch.GetTimestamp();
        CancellationToken ct = context.CancellationToken;
        using RequestId id = Enter(requestId, context);
        (ServedModel model, TextRequest request) = await events.ReadAsync(() =>
        {
            ServedModel served = host.Require(modelName);
            return ValueTask.FromResult((served, read(served)));
        });
        SamplingParams sampling = request.Tokens.Sampling;
        Serving.ServiceLevel headers = Serving.ServiceLevel.OfHeaders(name => context.RequestHeaders.GetValue(name));
        string tenant = Caller.Of(context.GetHttpContext());
        using Generation generation =
            Generation.Start(model, [request.At(arrival, tenant, headers, DeadlineOf(context))], events)[0];
        int[] tokens = new int[sampling.N];
        bool opened = false;
        while (await generation.WaitAsync(ct))
        {
            while (generation.TryRead(out Piece piece))
            {
                if (!opened) await Send(new GenerateResponse { Prompt = Open(model, id, generation, sampling) });
                opened = true;
                if (piece.Token >= 0)
                {
                    tokens[piece.Index]++;
                    Token token = TokenOf(model, piece, sampling);
                    await Send(new GenerateResponse { Index = (uint)piece.Index, Token = token });
                }
                if (piece.Finish == FinishReason.None) continue;
                await Send(new GenerateResponse
                {
                    Index = (uint)piece.Index,
                    Finished = new Finished
                    {
                        Reason = piece.Finish == FinishReason.Length ? V1.FinishReason.Length : V1.FinishReason.Stop,
                        Text = piece.Token >= 0 ? "" : piece.Content,
                        MatchedStop = piece.MatchedStop ?? "",
                        CompletionTokens = (uint)tokens[piece.Index],
                    },
                });
            }
        }
        RequestTimings t = generation.Timings;
        await Send(new GenerateResponse
        {
            Summary = new Summary
            {
                Usage = new Usage
                {
                    PromptTokens = (uint)generation.Ids.Length,
                    CompletionTokens = (uint)generation.CompletionTokens,
                    CachedTokens = (uint)t.CachedTokens,
                },
                Timings = new Timings
                {
                    QueueSeconds = Seconds(t.Arrival, t.FirstScheduled),
                    PrefillSeconds = Seconds(t.FirstScheduled, t.FirstToken),
                    DecodeSeconds = Seconds(t.FirstToken, t.LastToken),
                    TimeToFirstTokenSeconds = Seconds(t.Arrival, t.FirstToken),
                },
            },
        });

        Task Send(GenerateResponse message) =>
            SlowReader.WaitAsync(context.GetHttpContext(), responses.WriteAsync(message, ct));
    }

    private RequestId Enter(string given, ServerCallContext context) =>
        given.Length > 0 ? host.Enter(given, shared: false)
            : host.Enter(context.RequestHeaders.GetValue(RequestIdHeader.Name), shared: true);

    private static Prompt Open(ServedModel model, RequestId id, Generation generation, SamplingParams sampling)
    {
        Prompt prompt = new() { RequestId = id.ToString(), Model = model.Name };
        ReadOnlySpan<int> ids = generation.Ids.Span;
        foreach (int token in ids) prompt.TokenIds.Add(token);
        if (sampling.PromptLogprobs is null) return prompt;
        for (int i = 0; i < ids.Length; i++)
        {
            Token token = new() { Id = ids[i] };
            if (i > 0)
            {
                token.Logprob = generation.PromptLogprobs[i - 1];
                foreach (Kernels.Sampling.TokenLogprob alternative in generation.PromptAlternatives(i))
                    token.Alternatives.Add(Describe(model, alternative));
            }
            prompt.Logprobs.Add(token);
        }
        return prompt;
    }

    private static Token TokenOf(ServedModel model, in Piece piece, SamplingParams sampling)
    {
        Token token = new() { Id = piece.Token, Text = piece.Content };
        if (sampling.Logprobs is null) return token;
        token.Logprob = piece.Logprob;
        foreach (Kernels.Sampling.TokenLogprob alternative in piece.Alternatives.Span)
            token.Alternatives.Add(Describe(model, alternative));
        return token;
    }

    private static TokenLogprob Describe(ServedModel model, Kernels.Sampling.TokenLogprob alternative) =>
        new()
        {
            Id = alternative.Token,
            Logprob = alternative.Logprob,
            Bytes = ByteString.CopyFrom(model.BytesOf(alternative.Token)),
        };

    /// <summary>The call's deadline by the clock that the engine reads.</summary>
    private static long? DeadlineOf(ServerCallContext context)
    {
        // The framework takes a time of less than a tick for none.
        if (context.Deadline == DateTime.MaxValue)
            return ShortestTimeout().IsMatch(context.GetHttpContext().Request.Headers["grpc-timeout"].ToString())
                ? Stopwatch.GetTimestamp() : null;
        double left = (context.Deadline - DateTime.UtcNow).TotalSeconds;
        return Stopwatch.GetTimestamp() + (long)(Math.Clamp(left, 0, 1e6) * Stopwatch.Frequency);
    }

    [GeneratedRegex("^(0{1,8}[HMSmun]|[0-9]{1,2}n)$")]
    private static partial Regex ShortestTimeout();

    private static double Seconds(long from, long to) =>
        from == 0 || to == 0 ? 0 : Stopwatch.GetElapsedTime(from, to).TotalSeconds;
}
