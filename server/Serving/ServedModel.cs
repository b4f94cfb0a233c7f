using Native.Kernels;
using Native.Kernels.Text;
using Native.Scheduling;
using Native.Server.Jinja;

namespace Native.Server.Serving;

/// <summary>A loaded model with its names, its text side and its engine. Owns the engine and the runner.</summary>
internal sealed class ServedModel : IDisposable
{
    private readonly IModelRunner _runner;
    private readonly int _longestToken; // in characters
    private readonly Lazy<ChatTemplate?> _template, _toolTemplate;

    public ServedModel(string name, IModelRunner runner, Tokenizer tokenizer, SamplingParams defaults,
        EngineOptions options)
    {
        Name = name;
        Defaults = defaults;
        _runner = runner;
        Tokenizer = tokenizer;
        _template = new(() => tokenizer.ChatTemplate is { } source ? ChatTemplate.Parse(source) : null);
        _toolTemplate = new(() => tokenizer.ToolUseTemplate is { } source ? ChatTemplate.Parse(source) : null);
        BosText = tokenizer.BosId is { } bos ? tokenizer.Piece(bos) : "";
        EosText = tokenizer.EosId is { } eos ? tokenizer.Piece(eos) : "";
        ControlTexts = new ControlTexts(tokenizer);
        Engine = new Engine(runner, tokenizer.EndIds, options);
        Created = DateTimeOffset.UtcNow;
        _longestToken =
            Enumerable.Range(0, tokenizer.VocabularySize)
                .Max(id => Math.Max(tokenizer.Bytes(id).Length, tokenizer.Piece(id).Length));
    }

    /// <summary>The name clients ask for.</summary>
    public string Name { get; }

    /// <summary>Where it was loaded from, as the server was told; the name where it was told nothing.</summary>
    public string Root { get => field ?? Name; init; }

    /// <summary>As <see cref="Kernels.Models.LoadedModel.WhyNoGpu"/>.</summary>
    public string? WhyNoGpu { get; init; }

    public DateTimeOffset Created { get; }

    /// <summary>How a request is sampled that does not say.</summary>
    public SamplingParams Defaults { get; }

    public Engine Engine { get; }

    public ModelInfo Info => _runner.Info;

    public Tokenizer Tokenizer { get; }

    /// <summary>
    /// The model's chat template, or null where it brings none. It is parsed when it is first asked for.
    /// </summary>
    /// <exception cref="TemplateException">It does not parse.</exception>
    public ChatTemplate? Template => _template.Value;

    /// <summary>The template for conversations with tools, where the model brings one beside the other.</summary>
    /// <exception cref="TemplateException">It does not parse.</exception>
    public ChatTemplate? ToolTemplate => _toolTemplate.Value;

    public string BosText { get; }

    public string EosText { get; }

    public ControlTexts ControlTexts { get; }

    /// <summary>Refuses a text that no sequence could hold however well its tokens fit, before megabytes of it are
    /// encoded.</summary>
    /// <param name="text">What is to be encoded.</param>
    /// <param name="field">The field it came in.</param>
    /// <exception cref="RequestException">It is too long.</exception>
    public void CheckLength(string text, string field)
    {
        if (text.Length > (long)Info.MaxModelLength * _longestToken)
            throw RequestException.Invalid(
                $"The prompt has {text.Length} characters, but a sequence may have {Info.MaxModelLength} tokens of at "
                    + $"most {_longestToken} characters, prompt and output together.", field,
                Generation.ContextLengthExceeded);
    }

    /// <summary>A prompt's ids: the text as typed, with what the model wants around it.</summary>
    /// <exception cref="RequestException">It is too long for any sequence.</exception>
    public int[] EncodePrompt(string text)
    {
        CheckLength(text, "prompt");
        return Tokenizer.EncodePrompt(text);
    }

    /// <summary>A token as text for people and score tables: unique as far as the vocabulary is. Bytes that are no
    /// whole characters are written <c>bytes:\xNN</c>, OpenAI's way.</summary>
    public string TokenText(int id)
    {
        ReadOnlySpan<byte> bytes = BytesOf(id);
        if (id >= Tokenizer.VocabularySize) return $"<{id}>";
        if (bytes.IsEmpty) return Tokenizer.Piece(id);
        if (System.Text.Unicode.Utf8.IsValid(bytes)) return System.Text.Encoding.UTF8.GetString(bytes);
        return "bytes:" + string.Concat(bytes.ToArray().Select(b => $"\\x{b:x2}"));
    }

    /// <summary>A token's bytes; none for rows of the model past its tokenizer's last token.</summary>
    /// <param name="id">The token.</param>
    /// <param name="skipSpecial">Whether control tokens have none; otherwise theirs are those of their writing.</param>
    public ReadOnlySpan<byte> BytesOf(int id, bool skipSpecial = true) =>
        id < Tokenizer.VocabularySize ? Tokenizer.Bytes(id, skipSpecial) : [];

    public void Dispose()
    {
        Engine.Dispose();
        _runner.Dispose();
    }
}
