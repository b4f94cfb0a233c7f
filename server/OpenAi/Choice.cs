using System.Text;
using System.Text.Json;
using Native.Kernels.Sampling;
using Native.Scheduling;
using Native.Server.Serving;

namespace Native.Server.OpenAi;

/// <summary>One choice as it grows: what came since it was last sent, which in an answer of one piece is
/// everything.</summary>
internal sealed class Choice(ServedModel model, Generation generation, int index, bool skipSpecial)
{
    /// <summary>OpenAI's floor: JSON has no minus infinity.</summary>
    private const float LeastLogprob = -9999;

    private readonly StringBuilder _text = new();
    private readonly List<Piece> _tokens = [];
    private TextPlace _place = new();

    /// <summary>The choice's number in the answer.</summary>
    public int Index => index;

    public Generation Generation => generation;

    public FinishReason Finish { get; private set; }

    /// <summary>The prompt's text, where it is to be told first.</summary>
    public Echo? Echo { get; set; }

    /// <summary>Whether a stream has something to send.</summary>
    public bool HasNews => _text.Length > 0 || Finish != FinishReason.None || Echo is not null;

    /// <summary>Whether there are tokens since the last <see cref="Clear"/> that are part of the text.</summary>
    public bool HasTokens => _tokens.Exists(token => !token.IsStopToken);

    /// <summary>The text since the last <see cref="Clear"/>.</summary>
    public string Text => Echo is null ? _text.ToString() : Echo.Text + _text;

    /// <summary>OpenAI's word for how it ended, or null.</summary>
    public string? FinishWord => Finish switch
    {
        FinishReason.None => null,
        FinishReason.Length => "length",
        _ => "stop",
    };

    public void Add(in Piece piece)
    {
        foreach (Part part in piece.Parts.Span)
            if (part.Channel == Channel.Content) _text.Append(part.Text);
        if (piece.Token >= 0) _tokens.Add(piece);
        Finish = piece.Finish;
    }

    public void Clear()
    {
        Echo = null;
        _text.Clear();
        _tokens.Clear();
    }

    /// <summary>The member <c>token_ids</c> (vLLM's <c>return_token_ids</c>).</summary>
    public void WriteTokenIds(Utf8JsonWriter json)
    {
        json.WriteStartArray("token_ids");
        foreach (Piece token in _tokens) json.WriteNumberValue(token.Token);
        json.WriteEndArray();
    }

    /// <summary>The prompt's ids.</summary>
    public void WritePromptIds(Utf8JsonWriter json)
    {
        json.WriteStartArray("prompt_token_ids");
        foreach (int id in generation.Ids.Span) json.WriteNumberValue(id);
        json.WriteEndArray();
    }

    /// <summary>The member <c>logprobs</c> as chats have it. End tokens are left out: the tokens' texts make up the
    /// content.</summary>
    public void WriteChatLogprobs(Utf8JsonWriter json)
    {
        json.WriteStartObject("logprobs");
        json.WriteStartArray("content");
        foreach (Piece token in _tokens)
        {
            if (token.IsStopToken) continue;
            json.WriteStartObject();
            WriteToken(json, token.Token, token.Logprob);
            json.WriteStartArray("top_logprobs");
            foreach (TokenLogprob alternative in token.Alternatives.Span)
            {
                json.WriteStartObject();
                WriteToken(json, alternative.Token, alternative.Logprob);
                json.WriteEndObject();
            }
            json.WriteEndArray();
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteNull("refusal");
        json.WriteEndObject();
    }

    /// <summary>The member <c>logprobs</c> as completions have it; with <see cref="Echo"/> the prompt's tokens come
    /// first, the first of them without a value.</summary>
    public void WriteCompletionLogprobs(Utf8JsonWriter json)
    {
        List<(int Id, float? Logprob, ReadOnlyMemory<TokenLogprob> Alternatives)> rows = [];
        if (Echo is not null)
        {
            ReadOnlySpan<int> prompt = generation.Ids.Span;
            for (int i = 0; i < prompt.Length; i++)
                rows.Add((prompt[i], i == 0 ? null : generation.PromptLogprobs[i - 1],
                    i == 0 ? default : generation.PromptAlternatives(i).ToArray()));
        }
        foreach (Piece token in _tokens)
            if (!token.IsStopToken) rows.Add((token.Token, token.Logprob, token.Alternatives));

        json.WriteStartObject("logprobs");
        json.WriteStartArray("tokens");
        foreach ((int id, _, _) in rows) json.WriteStringValue(model.TokenText(id));
        json.WriteEndArray();
        json.WriteStartArray("token_logprobs");
        foreach ((_, float? logprob, _) in rows)
        {
            if (logprob is { } value) json.WriteNumberValue(Math.Max(value, LeastLogprob));
            else json.WriteNullValue();
        }
        json.WriteEndArray();
        json.WriteStartArray("top_logprobs");
        foreach ((int id, float? logprob, ReadOnlyMemory<TokenLogprob> alternatives) in rows)
        {
            if (logprob is { } value) WriteBest(json, id, value, alternatives.Span);
            else json.WriteNullValue();
        }
        json.WriteEndArray();
        json.WriteStartArray("text_offset");
        if (Echo is not null) WriteEchoOffsets(json, Encoding.UTF8.GetBytes(Echo.Text), Echo.Start);
        foreach ((int id, _, _) in rows[(Echo is null ? 0 : generation.Ids.Length)..])
        {
            json.WriteNumberValue(_place.Offset);
            _place.Add(model.BytesOf(id, skipSpecial));
        }
        json.WriteEndArray();
        json.WriteEndObject();
    }

    /// <summary>Where the prompt's tokens stand in its text. The text is the caller's, so tokens are found in it one
    /// after the other: the tokenizer adds spaces, and control tokens are in a text that was typed, but not in one made
    /// of ids.</summary>
    private void WriteEchoOffsets(Utf8JsonWriter json, ReadOnlySpan<byte> echo, int first)
    {
        int at = 0;
        bool atStart = true;
        for (int i = 0; i < generation.Ids.Length; i++)
        {
            json.WriteNumberValue(_place.Offset);
            int id = generation.Ids.Span[i];
            if (i < first || id >= model.Tokenizer.VocabularySize) continue;
            ReadOnlySpan<byte> seen = model.Tokenizer.Visible(id, skipSpecial: false, ref atStart), rest = echo[at..];
            ReadOnlySpan<byte> written = model.BytesOf(id, skipSpecial: false);
            int length = rest.StartsWith(seen) ? seen.Length
                : rest.StartsWith(written) ? written.Length
                : written[0] == (byte)' ' && rest.StartsWith(written[1..]) ? written.Length - 1
                : model.Tokenizer.IsSpecial(id) ? 0
                : Math.Min(seen.Length, rest.Length); // the tokenizer rewrote the text
            _place.Add(rest[..length]);
            at += length;
        }
        _place = new();
        _place.Add(echo);
    }

    /// <summary>The token itself and the best ones by text, in vLLM's order. Of tokens with the same text the first
    /// counts.</summary>
    private void WriteBest(Utf8JsonWriter json, int id, float logprob, ReadOnlySpan<TokenLogprob> alternatives)
    {
        HashSet<string> written = new(StringComparer.Ordinal);
        json.WriteStartObject();
        Write(id, logprob);
        foreach (TokenLogprob alternative in alternatives) Write(alternative.Token, alternative.Logprob);
        json.WriteEndObject();

        void Write(int token, float value)
        {
            string text = model.TokenText(token);
            if (written.Add(text)) json.WriteNumber(text, Math.Max(value, LeastLogprob));
        }
    }

    private void WriteToken(Utf8JsonWriter json, int id, float logprob)
    {
        json.WriteString("token", model.TokenText(id));
        json.WriteNumber("logprob", Math.Max(logprob, LeastLogprob));
        json.WriteStartArray("bytes");
        foreach (byte b in model.BytesOf(id, skipSpecial)) json.WriteNumberValue(b);
        json.WriteEndArray();
    }
}

/// <summary>A place in a text that grows by bytes, in code points, as Python counts.</summary>
internal sealed class TextPlace
{
    private readonly Decoder _utf8 = Encoding.UTF8.GetDecoder();
    private int _complete;

    /// <summary>Characters that have begun.</summary>
    public int Offset => _complete + (_utf8.GetCharCount([], flush: true) > 0 ? 1 : 0);

    public void Add(ReadOnlySpan<byte> bytes)
    {
        char[] chars = new char[Encoding.UTF8.GetMaxCharCount(bytes.Length)];
        foreach (char c in chars.AsSpan(0, _utf8.GetChars(bytes, chars, flush: false)))
            if (!char.IsLowSurrogate(c)) _complete++;
    }
}
