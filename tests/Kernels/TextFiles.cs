using System.Text;
using System.Text.Json.Nodes;
using Native.Kernels.Text;

namespace Native.Tests.Kernels;

/// <summary>Small tokenizers made up by tests.</summary>
internal static class TextFiles
{
    public const string Gpt2Pattern = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    /// <summary>A folder that is deleted after the use.</summary>
    public static T WithFolder<T>(Func<string, T> use, params (string Name, byte[] Content)[] files)
    {
        string folder = Directory.CreateTempSubdirectory("native-text-").FullName;
        try
        {
            foreach ((string name, byte[] content) in files) File.WriteAllBytes(Path.Combine(folder, name), content);
            return use(folder);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    public static Tokenizer Load(JsonNode json, string? config = null)
        => config is null
            ? WithFolder(Tokenizer.FromFolder, ("tokenizer.json", Encoding.UTF8.GetBytes(json.ToJsonString())))
            : WithFolder(Tokenizer.FromFolder, ("tokenizer.json", Encoding.UTF8.GetBytes(json.ToJsonString())), ("tokenizer_config.json", Encoding.UTF8.GetBytes(config)));

    public static Tokenizer Load(byte[] sentencePiece) => WithFolder(Tokenizer.FromFolder, ("tokenizer.model", sentencePiece));

    /// <summary>Byte-level BPE: 256 bytes, then one token for every merge, then added ones.</summary>
    public static JsonObject ByteLevel((string Left, string Right)[] merges, params (string Text, bool Special)[] added)
    {
        var vocabulary = new JsonObject();
        for (int b = 0; b < 256; b++) vocabulary.Add(ByteAlphabet.Character((byte)b).ToString(), b);
        foreach ((string left, string right) in merges) vocabulary.Add(left + right, vocabulary.Count);
        int next = vocabulary.Count;
        return new JsonObject
        {
            ["added_tokens"] = new JsonArray([.. added.Select(a => (JsonNode)new JsonObject { ["id"] = next++, ["content"] = a.Text, ["special"] = a.Special })]),
            ["normalizer"] = null,
            ["pre_tokenizer"] = JsonNode.Parse("""{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}"""),
            ["post_processor"] = null,
            ["decoder"] = JsonNode.Parse("""{"type":"ByteLevel"}"""),
            ["model"] = new JsonObject
            {
                ["type"] = "BPE",
                ["vocab"] = vocabulary,
                ["merges"] = new JsonArray([.. merges.Select(m => (JsonNode)new JsonArray(m.Left, m.Right))]),
            },
        };
    }

    /// <summary>BPE over characters with byte fallback, as Llama 2's and Mistral's tokenizer.json have it.</summary>
    public static JsonObject Characters((string Left, string Right)[] merges, string characters, string normalizer, string preTokenizer)
    {
        var vocabulary = new JsonObject { ["<unk>"] = 0, ["<s>"] = 1, ["</s>"] = 2 };
        for (int b = 0; b < 256; b++) vocabulary.Add($"<0x{b:X2}>", vocabulary.Count);
        foreach (Rune rune in characters.EnumerateRunes()) vocabulary.Add(rune.ToString(), vocabulary.Count);
        foreach ((string left, string right) in merges) vocabulary.Add(left + right, vocabulary.Count);
        return new JsonObject
        {
            ["added_tokens"] = new JsonArray([.. new[] { "<unk>", "<s>", "</s>" }.Select((text, id) => (JsonNode)new JsonObject { ["id"] = id, ["content"] = text, ["special"] = true })]),
            ["normalizer"] = JsonNode.Parse(normalizer),
            ["pre_tokenizer"] = JsonNode.Parse(preTokenizer),
            ["post_processor"] = JsonNode.Parse("""{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}}"""),
            ["decoder"] = JsonNode.Parse("""{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}"""),
            ["model"] = new JsonObject
            {
                ["type"] = "BPE",
                ["unk_token"] = "<unk>",
                ["fuse_unk"] = true,
                ["byte_fallback"] = true,
                ["vocab"] = vocabulary,
                ["merges"] = new JsonArray([.. merges.Select(m => (JsonNode)$"{m.Left} {m.Right}")]),
            },
        };
    }

    /// <summary>A tokenizer.model: pieces (text, score, type), then the trainer's model type.</summary>
    public static byte[] SentencePiece(IEnumerable<(string Text, float Score, int Type)> pieces, int modelType = 2)
    {
        var file = new MemoryStream();
        foreach ((string text, float score, int type) in pieces)
        {
            byte[] utf8 = Encoding.UTF8.GetBytes(text);
            byte[] piece = [0x0A, .. Varint(utf8.Length), .. utf8, 0x15, .. BitConverter.GetBytes(score), 0x18, (byte)type];
            file.Write([0x0A, .. Varint(piece.Length), .. piece]);
        }
        file.Write([0x12, 2, 0x18, (byte)modelType]);
        return file.ToArray();
    }

    public static byte[] Varint(long value)
    {
        var bytes = new List<byte>();
        for (; value >= 0x80; value >>= 7) bytes.Add((byte)(value | 0x80));
        bytes.Add((byte)value);
        return [.. bytes];
    }

    /// <summary>Text of every kind: ASCII, accents, CJK, emoji, marks, spaces, controls, lone surrogates.</summary>
    public static string RandomText(Random random, int length, bool loneSurrogates = true)
    {
        var text = new StringBuilder();
        while (text.Length < length)
        {
            switch (random.Next(loneSurrogates ? 9 : 8))
            {
                case 0: text.Append(' ', random.Next(1, 4)); break;
                case 1: text.Append((char)random.Next(0, 128)); break;
                case 2: text.Append((char)random.Next('a', 'f')); break;
                case 3: text.Append((char)random.Next(0xA0, 0x600)); break;
                case 4: text.Append((char)random.Next(0x4E00, 0x9FFF)); break;
                case 5: text.Append(char.ConvertFromUtf32(random.Next(0x1F600, 0x1F650))); break;
                case 6: text.Append(char.ConvertFromUtf32(random.Next(0x10000, 0x110000))); break;
                case 7: text.Append("\r\n\t'sS0123"[random.Next(10)]); break;
                default: text.Append((char)random.Next(0xD800, 0xE000)); break;
            }
        }
        return text.ToString();
    }
}
