using System.CommandLine;
using System.Globalization;
using System.Numerics;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Models;
using Native.Scheduling;
using Native.Server.Hub;

namespace Native.Tools;

/// <summary>The options of every command that loads a model, named as the server's.</summary>
internal sealed class ModelArguments
{
    private readonly Option<string?> _model = new("--model", "-m")
    {
        HelpName = "PATH",
        Description =
            "A GGUF file, or a Hugging Face folder with config.json and safetensors; or hf:ORG/REPO[/FILE][@REVISION] "
                + "on the Hugging Face hub, downloaded where the cache lacks it. Default: the small demo model that "
                + "ships with Native.",
    };
    private readonly Option<int?> _maxModelLength = new("--max-model-len")
    {
        HelpName = "TOKENS",
        Description =
            "Tokens a sequence may have, prompt and output together. Default: what the model was made for, as far as "
                + "memory holds it.",
    };
    private readonly KvCacheTypeArgument _kvCacheType;
    private readonly Option<string> _backend = new("--backend")
    {
        HelpName = string.Join('|', BackendFactory.Names),
        Description =
            "What computes: the processors (cpu), an NVIDIA GPU (cuda), which needs its driver and nothing else, or a "
                + "GPU by kernels in C# for CUDA and OpenCL (ilgpu). "
                + $"Default: {BackendFactory.Auto}, which takes a GPU where one can be used, else the CPU.",
        DefaultValueFactory = _ => BackendFactory.Auto,
    };
    private readonly Option<string?> _device = new("--device")
    {
        HelpName = "NUMBER|NAME",
        Description =
            "Which GPU, where there are several: its number, or a part of its name that only one has. Default: the "
                + "first that can run the kernels.",
    };
    private readonly Option<string> _fallback = new("--backend-fallback")
    {
        HelpName = "none|cpu",
        Description = "What computes where the backend can't be started.",
        DefaultValueFactory = _ => "none",
    };
    private readonly Option<double> _gpuMemory = new("--gpu-memory-utilization")
    {
        HelpName = "PART",
        Description = "The part of a GPU's memory that may be taken, above 0 and at most 1.",
        DefaultValueFactory = _ => ModelOptions.DefaultGpuMemoryUtilization,
    };

    private readonly Option<int?> _threads = new("--threads", "-t")
    {
        HelpName = "N",
        Description = "Worker threads. Default: one for each physical core.",
    };
    private readonly Option<bool> _floatActivations = new("--float-activations")
    {
        Description =
            "Keep activations in float32 for quantized weights too: slower, closest to the reference. On CPUs alone, "
                + $"so --backend {BackendFactory.Auto} takes the CPU with it.",
    };

    public ModelArguments(Command command)
    {
        _maxModelLength.Within(1, 1 << 28);
        _threads.Within(1, 1024);
        _gpuMemory.Real();
        _backend.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, [.. BackendFactory.Names]);
        command.Add(_model);
        command.Add(_maxModelLength);
        _kvCacheType = new KvCacheTypeArgument(command);
        command.Add(_backend);
        _fallback.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, "none", BackendFactory.Cpu);
        command.Add(_device);
        command.Add(_fallback);
        command.Add(_gpuMemory);
        command.Add(_threads);
        command.Add(_floatActivations);
    }

    /// <summary>The model that is taken where none is named.</summary>
    /// <exception cref="UsageException">It is not here.</exception>
    public static string DemoModel()
    {
        string path = Path.Combine(AppContext.BaseDirectory, "models", "demo.gguf");
        return File.Exists(path) ? path
            : throw new UsageException(
                "--model is needed: a GGUF file or a Hugging Face folder (the demo model is not here).");
    }

    /// <summary>A model's path or name as an option gives it.</summary>
    /// <exception cref="UsageException">It is neither.</exception>
    public static string CheckPath(string option, string path)
    {
        if (path.Length == 0)
            throw new UsageException($"{option} is empty; it must be a GGUF file or a Hugging Face folder.");
        if (HubReference.IsMeant(path) && !HubReference.TryParse(path, out _))
            throw new UsageException($"{option} is '{path}'; a model on the hub is {HubReference.Form}.");
        return path;
    }

    /// <summary>What the loader is told.</summary>
    /// <exception cref="UsageException">No model is named, and the demo model is not here; or a device is named that
    /// can't be meant.</exception>
    public ModelOptions Read(ParseResult arguments)
    {
        string backend = arguments.GetRequiredValue(_backend).ToLowerInvariant();
        string? device = arguments.GetValue(_device);
        if (device is not null && string.IsNullOrWhiteSpace(device))
            throw new UsageException("--device is empty; it must be a device's number or a part of its name.");
        if (device is not null && backend == BackendFactory.Cpu)
            throw new UsageException($"--device is '{device}', but --backend cpu has no devices.");
        double part = arguments.GetValue(_gpuMemory);
        if (!(part > 0 && part <= 1))
            throw new UsageException(string.Create(CultureInfo.InvariantCulture,
                $"--gpu-memory-utilization is {part}; it must be above 0 and at most 1."));
        if (arguments.GetResult(_gpuMemory) is { Implicit: false } && backend == BackendFactory.Cpu)
            throw new UsageException("--gpu-memory-utilization is given, but --backend cpu has no GPU's memory.");
        DType cacheType = _kvCacheType.Read(arguments);
        bool fallsBack =
            arguments.GetRequiredValue(_fallback).Equals(BackendFactory.Cpu, StringComparison.OrdinalIgnoreCase);
        if (cacheType == DType.FP8 && (fallsBack || backend == BackendFactory.Cpu))
            throw new UsageException("--kv-cache-dtype is fp8, which GPUs alone keep, but "
                + $"{(fallsBack ? "--backend-fallback" : "--backend")} is cpu.");
        string? path = arguments.GetValue(_model);
        if (path is null)
        {
            path = DemoModel();
        }
        else
        {
            CheckPath("--model", path);
        }
        return new ModelOptions
        {
            Path = path,
            MaxModelLength = arguments.GetValue(_maxModelLength),
            KvCacheType = cacheType,
            Backend = backend,
            Device = device,
            BackendFallback = fallsBack ? BackendFactory.Cpu : null,
            GpuMemoryUtilization = part,
            Threads = arguments.GetValue(_threads) ?? 0,
            FloatActivations = arguments.GetValue(_floatActivations),
            MaxSequences = 1, // one conversation, one prompt: the KV cache is that one's
        };
    }
}

/// <summary>The option that says how keys and values are kept.</summary>
internal sealed class KvCacheTypeArgument
{
    private readonly Option<string> _type = new("--kv-cache-dtype")
    {
        HelpName = "auto|f16|bf16|f32|q8_0|fp8",
        Description =
            "Element type of the KV cache; auto is f16, q8_0 takes 53 % of its memory, fp8 half of it (on GPUs from "
            + "compute capability 8.9 on), f32 is for exact comparisons.",
        DefaultValueFactory = _ => "auto",
    };

    public KvCacheTypeArgument(Command command)
    {
        _type.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, "auto", "f16", "bf16", "f32", "q8_0", "fp8");
        command.Add(_type);
    }

    public DType Read(ParseResult arguments) =>
        arguments.GetRequiredValue(_type) is var name && name.Equals("auto", StringComparison.OrdinalIgnoreCase)
            ? DType.F16 : Enum.Parse<DType>(name, ignoreCase: true);
}

/// <summary>The option that forces the CPU's instructions: each variant of a kernel is measured by itself.</summary>
internal sealed class VariantArgument
{
    private readonly Option<string?> _variant = new("--variant")
    {
        HelpName = string.Join('|', Enum.GetNames<CpuVariant>()),
        Description = "Compute with these instructions. Default: the fastest that the processor has.",
    };

    public VariantArgument(Command command)
    {
        _variant.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, Enum.GetNames<CpuVariant>());
        command.Add(_variant);
    }

    /// <returns>Null for the fastest.</returns>
    /// <exception cref="UsageException">This processor doesn't have them.</exception>
    public CpuVariant? Read(ParseResult arguments)
    {
        if (arguments.GetValue(_variant) is not { } name) return null;
        CpuOptions options = new() { Variant = Enum.Parse<CpuVariant>(name, ignoreCase: true) };
        IReadOnlyList<string> errors = options.Validate();
        return errors.Count == 0 ? options.Variant : throw new UsageException(string.Join(" ", errors));
    }
}

/// <summary>The options that say how tokens are chosen.</summary>
internal sealed class SamplingArguments
{
    private readonly Option<float> _temperature;
    private readonly Option<int> _topK = new("--top-k")
    {
        HelpName = "N",
        Description = "Keep this many best tokens; 0 keeps all.",
    };
    private readonly Option<float> _topP = new("--top-p")
    {
        HelpName = "P",
        Description = "Keep the smallest set of best tokens with this much probability.",
        DefaultValueFactory = _ => 1,
    };
    private readonly Option<float> _minP = new("--min-p")
    {
        HelpName = "P",
        Description = "Keep tokens at least this times as probable as the best.",
    };
    private readonly Option<float> _repetitionPenalty = new("--repetition-penalty")
    {
        HelpName = "X",
        Description = "Above 1 discourages tokens seen in prompt or output.",
        DefaultValueFactory = _ => 1,
    };
    private readonly Option<float> _presencePenalty = new("--presence-penalty")
    {
        HelpName = "X",
        Description = "Subtracted once from tokens seen in the output, -2 to 2.",
    };
    private readonly Option<float> _frequencyPenalty = new("--frequency-penalty")
    {
        HelpName = "X",
        Description = "Subtracted per occurrence in the output, -2 to 2.",
    };
    private readonly Option<ulong?> _seed = new("--seed")
    {
        HelpName = "N",
        Description = "The same seed, prompt and options give the same tokens. Default: drawn.",
    };
    private readonly Option<int?> _maxTokens = new("--max-tokens", "-n")
    {
        HelpName = "N",
        Description = "Tokens to generate at most. Default: what the context still holds.",
    };
    private readonly Option<string[]> _stop = new("--stop")
    {
        HelpName = "TEXT",
        Description = "Ends before this text; may be given several times.",
    };
    private readonly Option<bool> _ignoreEos = new("--ignore-eos")
    {
        Description = "Go on after the model's end tokens.",
    };

    /// <summary>Adds them to a command, which has its own default of <paramref name="temperature"/>.</summary>
    /// <param name="command">The command.</param>
    /// <param name="temperature">Its default.</param>
    /// <param name="suggested">Its help says that the model's makers come before the defaults.</param>
    public SamplingArguments(Command command, float temperature, bool suggested = false)
    {
        _temperature = new Option<float>("--temperature")
        {
            HelpName = "T",
            Description =
                "0 always takes the most probable token; higher is more varied."
                    + (suggested
                        ? " This, --top-k, --top-p, --min-p and --repetition-penalty default to what the model's "
                            + "makers recommend." : ""),
            DefaultValueFactory = _ => temperature,
        };
        Option[] options =
            [_temperature, _topK, _topP, _minP, _repetitionPenalty, _presencePenalty, _frequencyPenalty, _seed,
                _maxTokens, _stop, _ignoreEos];
        foreach (Option option in options) command.Add(option);
        foreach (Option<float> option in options.OfType<Option<float>>()) option.Real();
    }

    /// <summary>Texts that end the output.</summary>
    /// <exception cref="UsageException">One is empty.</exception>
    public string[] Stops(ParseResult arguments)
    {
        string[] stops = arguments.GetValue(_stop) ?? [];
        if (stops.Contains("")) throw new UsageException("--stop is empty; it must have a character.");
        return stops;
    }

    /// <param name="arguments">The command line.</param>
    /// <param name="suggested">What stands in for the defaults of options that were not given.</param>
    /// <exception cref="UsageException">Values out of their ranges, all of them named.</exception>
    public SamplingParams Read(ParseResult arguments, SuggestedSampling? suggested = null)
    {
        T Value<T>(Option<T> option, T? recommended)
            where T : struct =>
            recommended is { } r && arguments.GetResult(option) is not { Implicit: false } ? r
                : arguments.GetValue(option);
        SamplingParams sampling = new()
        {
            Temperature = Value(_temperature, suggested?.Temperature),
            TopK = Value(_topK, suggested?.TopK),
            TopP = Value(_topP, suggested?.TopP),
            MinP = Value(_minP, suggested?.MinP),
            RepetitionPenalty = Value(_repetitionPenalty, suggested?.RepetitionPenalty),
            PresencePenalty = arguments.GetValue(_presencePenalty),
            FrequencyPenalty = arguments.GetValue(_frequencyPenalty),
            Seed = arguments.GetValue(_seed) ?? (ulong)Random.Shared.NextInt64(),
            MaxTokens = arguments.GetValue(_maxTokens),
            IgnoreEos = arguments.GetValue(_ignoreEos),
        };
        List<string> errors = [];
        sampling.Validate(int.MaxValue, errors);
        if (errors.Count > 0) throw new UsageException(string.Join(" ", errors));
        return sampling;
    }
}

/// <summary>A text or ids to begin with.</summary>
internal sealed class PromptArguments
{
    private readonly Option<string?> _prompt = new("--prompt", "-p")
    {
        HelpName = "TEXT",
        Description =
            "The text. Special tokens written in it, such as <|im_start|>, count as those; the model's begin token is "
                + "added.",
    };
    private readonly Option<string?> _ids = new("--ids")
    {
        HelpName = "1,2,3",
        Description = "Token ids instead of text, taken as they are.",
    };

    public PromptArguments(Command command)
    {
        command.Add(_prompt);
        command.Add(_ids);
    }

    /// <summary>The text or the ids; both null where neither is given.</summary>
    /// <exception cref="UsageException">Both, or what are no ids.</exception>
    public (string? Text, int[]? Ids) Read(ParseResult arguments)
    {
        string? text = arguments.GetValue(_prompt), list = arguments.GetValue(_ids);
        if (text is not null && list is not null) throw new UsageException("--prompt and --ids exclude each other.");
        if (list is null) return (text, null);
        string[] parts =
            list.Split([',', ' ', '\n', '\t'], StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        int[] ids = new int[parts.Length];
        for (int i = 0; i < parts.Length; i++)
            if (!int.TryParse(parts[i], NumberStyles.None, CultureInfo.InvariantCulture, out ids[i]))
                throw new UsageException($"--ids has '{parts[i]}'; ids are whole numbers with commas between them.");
        if (ids.Length == 0) throw new UsageException("--ids is empty; it must have at least one id.");
        return (null, ids);
    }
}

internal static class OptionRanges
{
    /// <summary>Refuses values outside a range, naming it.</summary>
    public static void Within(this Option<int?> option, int least, int most) => option.Validators.Add(result =>
    {
        if (result.Tokens.Count == 1
            && long.TryParse(result.Tokens[0].Value, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture,
                out long value) && (value < least || value > most))
            result.AddError(
                string.Create(CultureInfo.InvariantCulture,
                    $"{option.Name} is {value}; it must be from {least} to {most}."));
    });

    /// <summary>Takes numbers with a decimal point alone: by default <c>0,9</c> would be 9.</summary>
    public static void Real<T>(this Option<T> option) where T : struct, INumberBase<T> =>
        option.CustomParser = result =>
        {
            string text = result.Tokens[0].Value;
            if (T.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out T value)) return value;
            result.AddError($"{option.Name} is '{text}'; it must be a number, such as 0.9.");
            return default;
        };
}
