namespace Native.Tools.DemoModel;

internal readonly record struct Turn(string Role, string Text);

/// <summary>One document of the corpus: a plain story, or a conversation when it has turns.</summary>
internal sealed record Example(string? Story, IReadOnlyList<Turn> Turns)
{
    // A user's words are read rather than written; learning them a little still teaches their meaning.
    private const float UserWeight = 0.2f;

    // Names, things and colours are what a text must keep consistent, yet they are few among the words: they count
    // more.
    private const float ContentFactor = 3;

    // A short answer says little but what was asked for.
    private const float AnswerFactor = 1.5f;
    private const int AnswerLength = 120;

    /// <summary>Ids and the weight of each in the loss: at least 1 for what the model is to say, less for what it is
    /// told.</summary>
    public (List<long> Ids, List<float> Weights) Encode(Tokenizer tokenizer)
    {
        var ids = new List<long>();
        var weights = new List<float>();
        void Add(int id, float weight) { ids.Add(id); weights.Add(weight); }
        void Text(string text, float weight)
        {
            foreach (var (piece, pieceIds) in tokenizer.Pieces(text))
                foreach (int id in pieceIds) Add(id, Words.Content.Contains(piece.TrimStart()) ? ContentFactor * weight : weight);
        }

        if (Story is not null)
        {
            Text(Story, 1);
            Add(tokenizer.EndOfTextId, 1);
            return (ids, weights);
        }
        foreach (Turn turn in Turns)
        {
            float weight = turn.Role != "assistant" ? UserWeight : turn.Text.Length < AnswerLength ? AnswerFactor : 1;
            Add(tokenizer.ImStartId, 0);
            Text(turn.Role + "\n", 0);
            Text(turn.Text, weight);
            Add(tokenizer.ImEndId, weight);
            Text("\n", 0);
        }
        return (ids, weights);
    }

    public string Render() => Story is not null
        ? Story + Tokenizer.EndOfText
        : string.Concat(Turns.Select(t => $"{Tokenizer.ImStart}{t.Role}\n{t.Text}{Tokenizer.ImEnd}\n"));
}

/// <summary>An endless, seeded stream of fresh documents packed into rows that each begin with a document's first
/// token.</summary>
internal sealed class TokenStream(Corpus corpus, Tokenizer tokenizer)
{
    public (long[] Ids, float[] Weights) Next(int rows, int length)
    {
        var ids = new long[rows * length];
        var weights = new float[rows * length];
        for (int row = 0; row < rows; row++)
            for (int filled = 0; filled < length;)
            {
                var (document, weight) = corpus.Next().Encode(tokenizer);
                int count = Math.Min(document.Count, length - filled);
                document.CopyTo(0, ids, row * length + filled, count);
                weight.CopyTo(0, weights, row * length + filled, count);
                filled += count;
            }
        return (ids, weights);
    }
}
