namespace Native.Kernels.Text;

/// <summary>Finds the tokens that end a generation: those that generation_config.json lists, as in transformers and
/// vLLM. Without such a list: those that the file names and those with well-known texts, as in llama.cpp.</summary>
internal static class EndTokens
{
    /// <summary>Texts that mean an end in every vocabulary. A file that calls one an ordinary token is wrong.</summary>
    private static readonly HashSet<string> Always = new(StringComparer.Ordinal)
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
        "<|endoftext|>", "<|eom_id|>",
        "<|end_of_text|>", "<end_of_utterance>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
        "<|fim_pad|>", "<|file_sep|>", "<|repo_name|>", "<|fim_repo|>",
    };

    /// <summary>Texts that may be ordinary. In GGUF they are ends always; elsewhere only if the file does not call them
    /// ordinary.</summary>
    private static readonly HashSet<string> UnlessOrdinary = new(StringComparer.Ordinal)
    {
        "</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<fim-repo>",
        "<REPO>", "<reponame>",
    };

    /// <summary>Texts around a gap to fill in. They are not ends, but always control tokens in a GGUF file.</summary>
    private static readonly HashSet<string> FillInTheMiddle = new(StringComparer.Ordinal)
    {
        "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
        "<|prefix|>",
        "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
        "<|suffix|>",
        "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
        "<|middle|>",
    };

    private const string FirstCharacters = "<[_▁";
    private const int MaxLength = 32;

    /// <summary>Collects the ids; tokens that end a generation become control tokens in
    /// <paramref name="types"/>.</summary>
    public static HashSet<int> Collect(TokenizerDefinition definition, string[] pieces, TokenType[] types)
    {
        var ends = new HashSet<int>();
        bool listed = definition.ListsEnds && definition.EndIds.Count > 0;
        var byText = new Dictionary<string, int>(StringComparer.Ordinal);
        for (int id = 0; id < pieces.Length; id++)
        {
            if (pieces[id].Length is 0 or > MaxLength || !FirstCharacters.Contains(pieces[id][0])) continue;
            if (definition.GgufTokens && types[id] != TokenType.Unknown && FillInTheMiddle.Contains(pieces[id]))
                types[id] = TokenType.Control;
            bool always = Always.Contains(pieces[id]);
            bool ordinary = types[id] == TokenType.Normal && !definition.GgufTokens;
            if (listed || (!always && (ordinary || !UnlessOrdinary.Contains(pieces[id])))) continue;
            ends.Add(id);
            byText.TryAdd(pieces[id], id);
        }
        ends.UnionWith(definition.EndIds);
        if (definition.EosId is { } eos) ends.Add(eos);

        // Harmony (gpt-oss) and Solar end single messages with <|end|> and go on. Gemma 4's </s> is not an end.
        bool harmony = byText.ContainsKey("<|call|>") && byText.ContainsKey("<|return|>");
        bool solar = (byText.ContainsKey("<|call|>") || byText.ContainsKey("<|calls|>"))
            && byText.ContainsKey("<|flush|>");
        if ((harmony || solar) && byText.TryGetValue("<|end|>", out int end)) ends.Remove(end);
        if (byText.ContainsKey("<|tool_response>") && byText.TryGetValue("</s>", out end))
        {
            ends.Remove(end);
            if (definition.GgufTokens) types[end] = TokenType.Normal;
        }

        foreach (int id in ends)
            if (types[id] is not (TokenType.Control or TokenType.Unknown)) types[id] = TokenType.Control;
        return ends;
    }
}
