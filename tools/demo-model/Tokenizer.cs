using System.Text;
using System.Text.RegularExpressions;
using Native.Server.Serving;

namespace Native.Tools.DemoModel;

/// <summary>
/// Byte-level BPE (Sennrich et al. 2016; GPT-2's byte-to-unicode form and pre-tokenizer). Ids: 256 bytes in
/// GPT-2's order, then one token per merge, then the control tokens.
/// </summary>
internal sealed partial class Tokenizer
{
    public const string ImStart = "<|im_start|>", ImEnd = "<|im_end|>", EndOfText = "<|endoftext|>";

    // What llama.cpp runs for tokenizer.ggml.pre = "gpt-2".
    [GeneratedRegex(@"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")]
    private static partial Regex Pretokens();

    private static readonly char[] s_byteToChar = ByteToChar();

    private readonly Dictionary<(int, int), (int Rank, int Id)> _merges = [];
    private readonly Dictionary<string, int[]> _cache = [];

    public List<string> Tokens { get; } = [];
    public List<string> Merges { get; } = [];
    public int ImStartId => Tokens.Count - 3;
    public int ImEndId => Tokens.Count - 2;
    public int EndOfTextId => Tokens.Count - 1;

    private Tokenizer(IEnumerable<(int Left, int Right)> merges)
    {
        Tokens.AddRange(s_byteToChar.Order().Select(c => c.ToString()));
        foreach ((int left, int right) in merges)
        {
            _merges.Add((left, right), (_merges.Count, Tokens.Count));
            Merges.Add($"{Tokens[left]} {Tokens[right]}");
            Tokens.Add(Tokens[left] + Tokens[right]);
        }
        Tokens.AddRange([ImStart, ImEnd, EndOfText]);
    }

    /// <summary>Learns merges until the vocabulary holds <paramref name="size"/> tokens, most frequent pair
    /// first.</summary>
    public static Tokenizer Train(IEnumerable<string> texts, int size)
    {
        var counts = new Dictionary<string, int>();
        foreach (string text in texts)
            foreach (ValueMatch match in Pretokens().EnumerateMatches(text))
            {
                string piece = text.Substring(match.Index, match.Length);
                counts[piece] = counts.GetValueOrDefault(piece) + 1;
            }

        var bytes = new Tokenizer([]);
        var words = counts.OrderByDescending(c => c.Value).ThenBy(c => c.Key, StringComparer.Ordinal)
            .Select(c => (Ids: bytes.Bytes(c.Key), Count: c.Value)).ToList();
        var merges = new List<(int, int)>();
        while (256 + merges.Count + 3 < size)
        {
            var pairs = new Dictionary<(int, int), int>();
            foreach (var (ids, count) in words)
                for (int i = 0; i + 1 < ids.Count; i++)
                    pairs[(ids[i], ids[i + 1])] = pairs.GetValueOrDefault((ids[i], ids[i + 1])) + count;
            if (pairs.Count == 0) break;

            // Ties go to the smaller ids, so that the result does not depend on dictionary order.
            (int, int) best = pairs.OrderByDescending(p => p.Value).ThenBy(p => p.Key).First().Key;
            int id = 256 + merges.Count;
            merges.Add(best);
            foreach (var (ids, _) in words) Merge(ids, best, id);
        }
        return new Tokenizer(merges);
    }

    public static Tokenizer Load(string path) =>
        new(File.ReadLines(path).Select(l => l.Split(' ')).Select(p => (int.Parse(p[0]), int.Parse(p[1]))));

    public void Save(string path) => File.WriteAllLines(path, _merges.Keys.Select(p => $"{p.Item1} {p.Item2}"));

    /// <summary>Ids of plain text; control tokens are never read out of it.</summary>
    public List<int> Encode(string text) => [.. Pieces(text).SelectMany(p => p.Ids)];

    /// <summary>The pre-tokens of plain text (a word comes with the space before it), each with its ids.</summary>
    public IEnumerable<(string Piece, int[] Ids)> Pieces(string text)
    {
        foreach (Match match in Pretokens().Matches(text))
        {
            if (!_cache.TryGetValue(match.Value, out int[]? ids)) _cache[match.Value] = ids = EncodePiece(match.Value);
            yield return (match.Value, ids);
        }
    }

    public string Decode(IEnumerable<int> ids)
    {
        var bytes = new List<byte>();
        foreach (int id in ids)
            if (id >= ImStartId) bytes.AddRange(Encoding.UTF8.GetBytes(Tokens[id]));
            else foreach (char c in Tokens[id]) bytes.Add((byte)Array.IndexOf(s_byteToChar, c));
        return Encoding.UTF8.GetString([.. bytes]);
    }

    private int[] EncodePiece(string piece)
    {
        List<int> ids = Bytes(piece);
        while (true)
        {
            (int Rank, int Id) best = (int.MaxValue, -1);
            (int, int) pair = default;
            for (int i = 0; i + 1 < ids.Count; i++)
                if (_merges.TryGetValue((ids[i], ids[i + 1]), out var merge) && merge.Rank < best.Rank)
                    (best, pair) = (merge, (ids[i], ids[i + 1]));
            if (best.Id < 0) return [.. ids];
            Merge(ids, pair, best.Id);
        }
    }

    private List<int> Bytes(string piece) =>
        [.. Encoding.UTF8.GetBytes(piece).Select(b => Tokens.IndexOf(s_byteToChar[b].ToString()))];

    private static void Merge(List<int> ids, (int Left, int Right) pair, int id)
    {
        for (int i = 0; i + 1 < ids.Count; i++)
            if (ids[i] == pair.Left && ids[i + 1] == pair.Right)
            {
                ids[i] = id;
                ids.RemoveAt(i + 1);
            }
    }

    /// <summary>GPT-2's reversible map: printable Latin-1 stands for itself, every other byte for U+0100
    /// onwards.</summary>
    private static char[] ByteToChar()
    {
        var map = new char[256];
        int next = 256;
        for (int b = 0; b < 256; b++)
            map[b] = b is >= '!' and <= '~' or >= 0xA1 and <= 0xAC or >= 0xAE ? (char)b : (char)next++;
        return map;
    }
}
