using System.Text.Json;
using Native.Kernels.Text;
using Native.Tools;

namespace Native.Bench.Serve;

/// <summary>What one request asks.</summary>
/// <param name="Text">The prompt.</param>
/// <param name="Ids">The prompt as ids, for interfaces that take them; null where there is no tokenizer.</param>
/// <param name="OutputTokens">Tokens to generate at most.</param>
internal sealed record Prompt(string Text, int[]? Ids, int OutputTokens);

/// <summary>Where prompts come from.</summary>
internal static class Prompts
{
    // Common words, which most vocabularies have as one token with the space before them.
    private static readonly string[] Words =
    [
        "the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "are", "with", "as", "his", "they",
        "at", "be", "this", "from",
        "have", "or", "by", "one", "had", "not", "but", "what", "all", "were", "when", "we", "there", "can", "an",
        "your", "which", "their", "said", "if",
        "do", "will", "each", "about", "how", "up", "out", "them", "then", "she", "many", "some", "so", "these",
        "would", "other", "into", "has", "more", "her",
        "two", "like", "him", "see", "time", "could", "no", "make", "than", "first", "been", "its", "who", "now",
        "people", "my", "made", "over", "did", "down",
    ];

    /// <summary>Prompts that share no beginning, of random words; with a tokenizer of random tokens.</summary>
    /// <param name="count">How many.</param>
    /// <param name="inputLength">Mean length: words, or with a tokenizer tokens.</param>
    /// <param name="outputLength">Mean of the tokens to generate.</param>
    /// <param name="rangeRatio">Lengths are drawn evenly from (1 - this) to (1 + this) times the mean.</param>
    /// <param name="tokenizer">The model's; null where it isn't known.</param>
    /// <param name="random">Draws them.</param>
    public static List<Prompt> Random(int count, int inputLength, int outputLength, double rangeRatio,
        Tokenizer? tokenizer, Random random)
    {
        int[] ids = OrdinaryIds(tokenizer);
        int Drawn(int mean) =>
            random.Next(Math.Max(1, (int)Math.Floor(mean * (1 - rangeRatio))),
                (int)Math.Ceiling(mean * (1 + rangeRatio)) + 1);
        List<Prompt> prompts = [];
        for (int i = 0; i < count; i++)
        {
            int input = Drawn(inputLength), output = Drawn(outputLength);
            int[] drawn =
                tokenizer is null ? [] : [.. Enumerable.Range(0, input).Select(_ => ids[random.Next(ids.Length)])];
            prompts.Add(tokenizer is null
                ? new Prompt(string.Join(' ', Enumerable.Range(0, input).Select(_ => Words[random.Next(Words.Length)])),
                    null, output)
                : new Prompt(tokenizer.Decode(drawn), drawn, output));
        }
        return prompts;
    }

    /// <summary>Prompts of a timed trace: blocks with the same id have the same words, or with a tokenizer the same
    /// tokens.</summary>
    public static List<Prompt> OfTrace(
        IReadOnlyList<TimedRequest> requests, int blockTokens, Tokenizer? tokenizer)
    {
        int[] ids = OrdinaryIds(tokenizer);
        IEnumerable<int> Content(TimedRequest request, int choices) => Enumerable.Range(0, request.InputLength)
            .Select(i => BlockContent.Token(request.HashIds[i / blockTokens], i % blockTokens, choices));
        Prompt Of(TimedRequest request)
        {
            if (tokenizer is null)
                return new Prompt(string.Join(' ', Content(request, Words.Length).Select(i => Words[i])), null,
                    request.OutputLength);
            int[] drawn = [.. Content(request, ids.Length).Select(i => ids[i])];
            return new Prompt(tokenizer.Decode(drawn), drawn, request.OutputLength);
        }
        return [.. requests.Select(Of)];
    }

    /// <summary>Ids that stand for text; none without a tokenizer.</summary>
    private static int[] OrdinaryIds(Tokenizer? tokenizer) => tokenizer is null ? []
        : [.. Enumerable.Range(0, tokenizer.VocabularySize)
            .Where(id => !tokenizer.IsSpecial(id) && !tokenizer.IsEnd(id))];

    /// <summary>A prompt from each line of a file, which is a text, or JSON as in vLLM's custom data sets: {"prompt":
    /// ..., "output_tokens": ...}. Begins again at its end.</summary>
    /// <exception cref="CommandException">A line is no such thing; says which.</exception>
    public static List<Prompt> OfFile(string path, int count, int outputLength)
    {
        List<Prompt> prompts = [];
        int number = 0;
        foreach (string line in File.ReadLines(path))
        {
            number++;
            if (prompts.Count == count) break;
            if (line.Trim().Length > 0)
                prompts.Add(line.TrimStart().StartsWith('{') ? OfJson(line, $"{path}, line {number}", outputLength)
                    : new Prompt(line, null, outputLength));
        }
        if (prompts.Count == 0)
            throw new CommandException(
                $"{path} has no prompt: one a line is expected, a text or {{\"prompt\": \"...\"}}");
        int read = prompts.Count;
        for (int i = read; i < count; i++) prompts.Add(prompts[i % read]);
        return prompts;
    }

    private static Prompt OfJson(string line, string place, int outputLength)
    {
        try
        {
            using JsonDocument json = JsonDocument.Parse(line);
            if (!json.RootElement.TryGetProperty("prompt", out JsonElement prompt)
                || prompt.ValueKind != JsonValueKind.String)
                throw new CommandException($"{place}: there is no \"prompt\" that is a text");
            if (json.RootElement.TryGetProperty("output_tokens", out JsonElement tokens)
                && (!tokens.TryGetInt32(out outputLength) || outputLength < 1))
                throw new CommandException(
                    $"{place}: \"output_tokens\" is {tokens}; a whole number from 1 is expected");
            return new Prompt(prompt.GetString()!, null, outputLength);
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new CommandException($"{place}: {e.Message}");
        }
    }
}
