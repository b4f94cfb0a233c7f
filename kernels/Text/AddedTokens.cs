namespace Native.Kernels.Text;

/// <summary>A token that Hugging Face files list beside the vocabulary, or again within it. A normalized token is
/// searched in the normalized text, after the others were searched in the original text.</summary>
internal sealed record AddedToken(int Id, string Text, bool Special, TokenEdges Edges, bool Normalized = false);

/// <summary>Puts added tokens into a vocabulary.</summary>
internal sealed class AddedTokens(string source, List<string?> pieces, List<TokenType> types)
{
    /// <summary>Most ids beyond the vocabulary's own. More means a damaged file, not a padded embedding.</summary>
    private const int MaxAdded = 1 << 18;

    private readonly int _limit = pieces.Count + MaxAdded;

    private readonly Dictionary<int, TokenEdges> _edges = [];
    private readonly HashSet<int> _normalized = [];

    private readonly HashSet<int> _beyondModel = [];

    public IReadOnlySet<int> Normalized => _normalized;

    /// <summary>Tokens that the model's own vocabulary lacks: no text becomes one by merging.</summary>
    public IReadOnlySet<int> BeyondModel => _beyondModel;

    public TokenEdges[]? Edges
    {
        get
        {
            if (_edges.Values.All(static e => e == TokenEdges.None)) return null;
            var edges = new TokenEdges[pieces.Count];
            foreach ((int id, TokenEdges value) in _edges) edges[id] = value;
            return edges;
        }
    }

    public void Add(AddedToken token)
    {
        if (token.Id < 0 || token.Id >= _limit)
            throw new InvalidDataException(
                $"{source}: added token '{token.Text}': expected an id from 0 to {_limit - 1}, found {token.Id}");
        PadTo(token.Id + 1);
        if (pieces[token.Id] != token.Text) _beyondModel.Add(token.Id);
        pieces[token.Id] = token.Text;
        if (types[token.Id] is not (TokenType.Unknown or TokenType.Byte))
            types[token.Id] = token.Special ? TokenType.Control : TokenType.UserDefined;
        _edges[token.Id] = token.Edges;
        if (token.Normalized) _normalized.Add(token.Id);
        else _normalized.Remove(token.Id);
    }

    /// <summary>Gives an existing token the properties from another file.</summary>
    public void Amend(AddedToken token)
    {
        if (token.Id >= 0 && token.Id < pieces.Count && pieces[token.Id] == token.Text) Add(token);
    }

    /// <summary>Adds ids without a token, up to the rows of the model's embedding.</summary>
    public void PadTo(int count)
    {
        if (count > _limit) return;
        while (pieces.Count < count)
        {
            pieces.Add(null);
            types.Add(TokenType.Unused);
        }
    }

    /// <summary>The id of a text. It scans the vocabulary, since it is called only a few times.</summary>
    public int? Find(string? text)
        => !string.IsNullOrEmpty(text) && pieces.IndexOf(text) is var id and >= 0 ? id : null;
}
