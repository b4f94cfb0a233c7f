using System.Text;
using System.Text.Json;
using Native.Scheduling;
using Native.Server.Http;
using Native.Server.Serving;
using Native.V1;
using SamplingParams = Native.Scheduling.SamplingParams;
using TokenBias = Native.Kernels.Sampling.TokenBias;

namespace Native.Server.Grpc;

/// <summary>Reads the messages of <c>native.v1</c> that ask for text. Depends on its arguments alone.</summary>
internal static class MessageReader
{
    /// <exception cref="RequestException">There is no prompt, or it is too long.</exception>
    public static TextRequest Read(GenerateRequest request, ServedModel model)
    {
        ReadOnlyMemory<int> ids = request.PromptCase switch
        {
            GenerateRequest.PromptOneofCase.Text => model.EncodePrompt(request.Text),
            GenerateRequest.PromptOneofCase.TokenIds => request.TokenIds.Ids.ToArray(),
            _ => throw RequestException.Invalid("The prompt is missing: text or token_ids must be set.", "prompt"),
        };
        return Read(ids, request.Sampling, request.CacheSalt, request.ServiceLevel, model);
    }

    /// <exception cref="RequestException">A field holds what it may not, or the template refuses the
    /// conversation.</exception>
    public static TextRequest Read(ChatRequest request, ServedModel model, CancellationToken ct = default)
    {
        JsonElement messages = JsonSerializer.SerializeToElement(request.Messages.Select(message =>
            new Dictionary<string, string> { ["role"] = message.Role, ["content"] = message.Content }));
        JsonElement? extra = Parse(request.TemplateArgumentsJson, "template_arguments_json", JsonValueKind.Object);
        JsonElement? tools = Parse(request.ToolsJson, "tools_json", JsonValueKind.Array);
        bool open = !request.HasAddGenerationPrompt || request.AddGenerationPrompt;
        int[] ids = ChatPrompt.Encode(model, messages, tools, open, extra, ct);
        return Read(ids, request.Sampling, request.CacheSalt, request.ServiceLevel, model);
    }

    private static TextRequest Read(
        ReadOnlyMemory<int> ids, V1.SamplingParams? sampling, string cacheSalt, V1.ServiceLevel? level,
        ServedModel model) => new()
        {
            Tokens = new GenerationRequest
            {
                Ids = ids,
                CacheSalt = cacheSalt,
                Sampling = Read(sampling ?? new V1.SamplingParams(), model.Defaults),
            },
            Level = level is null ? Serving.ServiceLevel.Default : Read(level),
            Stop = [.. sampling?.Stop.Where(stop => stop.Length > 0) ?? []],
            SkipSpecialTokens = sampling is not { HasSkipSpecialTokens: true, SkipSpecialTokens: false },
        };

    private static Serving.ServiceLevel Read(V1.ServiceLevel level) => new()
    {
        Class = level.Class switch
        {
            V1.ServiceLevel.Types.Class.Online => null,
            V1.ServiceLevel.Types.Class.Batch => RequestClass.Batch,
            _ => throw RequestException.Invalid($"service_level.class is {(int)level.Class}; it must be 0 or 1.",
                "service_level.class"),
        },
        Priority = level.Priority == 0 ? null : level.Priority,
        Ttft = level.HasTtftMs ? Serving.ServiceLevel.Milliseconds(level.TtftMs, "service_level.ttft_ms") : null,
        Tpot = level.HasTpotMs ? Serving.ServiceLevel.Milliseconds(level.TpotMs, "service_level.tpot_ms") : null,
        BestEffort = level.BestEffort ? true : null,
    };

    private static SamplingParams Read(V1.SamplingParams p, SamplingParams defaults) => defaults with
    {
        Temperature = p.HasTemperature ? p.Temperature : defaults.Temperature,
        TopK = p.HasTopK ? p.TopK : defaults.TopK,
        TopP = p.HasTopP ? p.TopP : defaults.TopP,
        MinP = p.HasMinP ? p.MinP : defaults.MinP,
        RepetitionPenalty = p.HasRepetitionPenalty ? p.RepetitionPenalty : defaults.RepetitionPenalty,
        PresencePenalty = p.HasPresencePenalty ? p.PresencePenalty : defaults.PresencePenalty,
        FrequencyPenalty = p.HasFrequencyPenalty ? p.FrequencyPenalty : defaults.FrequencyPenalty,
        Seed = p.HasSeed ? p.Seed : null,
        N = p.HasN ? Int(p.N) : defaults.N,
        MaxTokens = p.HasMaxTokens ? Int(p.MaxTokens) : null,
        MinTokens = p.HasMinTokens ? Int(p.MinTokens) : defaults.MinTokens,
        IgnoreEos = p.HasIgnoreEos && p.IgnoreEos,
        StopTokenIds = [.. p.StopTokenIds],
        LogitBias = [.. p.LogitBias.Select(bias => new TokenBias(bias.Key, bias.Value))],
        Logprobs = p.HasLogprobs ? Int(p.Logprobs) : null,
        PromptLogprobs = p.HasPromptLogprobs ? Int(p.PromptLogprobs) : null,
    };

    private static int Int(uint value) => (int)Math.Min(value, int.MaxValue);

    private static JsonElement? Parse(string json, string param, JsonValueKind kind)
    {
        if (json.Length == 0) return null;
        JsonElement element;
        try
        {
            element = RequestBody.Parse(Encoding.UTF8.GetBytes(json));
        }
        catch (RequestException e)
        {
            throw RequestException.Invalid($"{param}: {e.Message}", param);
        }
        return element.ValueKind == kind ? element
            : throw RequestException.Invalid($"{param} must be a JSON {kind.ToString().ToLowerInvariant()}.", param);
    }
}
