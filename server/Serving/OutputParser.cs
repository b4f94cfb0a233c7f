using Native.Kernels.Text;

namespace Native.Server.Serving;

/// <summary>What a part of an answer is for.</summary>
internal enum Channel
{
    /// <summary>The answer's own text.</summary>
    Content,
}

/// <summary>Text of one channel: whole characters, and no part of a stop text.</summary>
internal readonly record struct Part(Channel Channel, string Text);

/// <summary>Makes parts of one choice's tokens. All text is content up to the first stop text after the least number of
/// tokens.</summary>
internal sealed class OutputParser(Tokenizer tokenizer, TextRequest request)
{
    private readonly Detokenizer _text = new(tokenizer, request.Stop, request.SkipSpecialTokens);
    private readonly int _minTokens = request.Tokens.Sampling.MinTokens;
    private readonly Part[] _parts = new Part[1];
    private int _tokens;

    /// <summary>Whether a stop text has come; later tokens add nothing.</summary>
    public bool Stopped => _text.Stopped;

    /// <summary>The stop text that came, as given.</summary>
    public string? MatchedStop => _text.MatchedStop;

    /// <summary>Takes the next token, or the choice's end, or both.</summary>
    /// <param name="token">An id with text, or -1 for none.</param>
    /// <param name="ends">Whether nothing follows, so that what was held back is certain.</param>
    /// <returns>The parts that are certain now. The memory is this parser's, until the next call.</returns>
    public ReadOnlyMemory<Part> Take(int token, bool ends)
    {
        if (token >= 0) _text.MayStop = ++_tokens > _minTokens;
        // A model may have rows past its tokenizer's last token.
        string text = token >= 0 && token < tokenizer.VocabularySize ? _text.Append(token) : "";
        if (ends && !Stopped)
        {
            string rest = _text.Flush();
            text = text.Length == 0 ? rest : text + rest;
        }
        if (text.Length == 0) return default;
        _parts[0] = new Part(Channel.Content, text);
        return _parts;
    }
}
