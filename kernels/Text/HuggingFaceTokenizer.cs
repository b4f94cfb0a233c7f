namespace Native.Kernels.Text;

/// <summary>Finds a Hugging Face folder's tokenizer: tokenizer.json, or else tokenizer.model.</summary>
internal static class HuggingFaceTokenizer
{
    public static TokenizerDefinition Read(string folder)
    {
        string json = Path.Combine(folder, "tokenizer.json"), model = Path.Combine(folder, "tokenizer.model");
        bool hasJson = File.Exists(json);
        if (!hasJson && !File.Exists(model))
            throw new FileNotFoundException(
                $"{folder}: expected tokenizer.json or tokenizer.model, found neither", json);
        TokenizerConfig config = TokenizerConfig.Read(folder);
        return hasJson ? TokenizerJson.Read(json, File.ReadAllBytes(json), config)
            : SentencePieceModel.Read(model, File.ReadAllBytes(model), config);
    }
}
