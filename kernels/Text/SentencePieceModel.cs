using System.Buffers.Binary;
using System.Text;

namespace Native.Kernels.Text;

/// <summary>Reads tokenizer.model: SentencePiece's ModelProto (sentencepiece_model.proto), the fields that encoding
/// needs.</summary>
/// <remarks>remove_extra_whitespaces is ignored, as in llama.cpp and Hugging Face's fast tokenizers: a prompt's
/// indentation matters.</remarks>
internal static class SentencePieceModel
{
    private static readonly UTF8Encoding Strict = new(false, throwOnInvalidBytes: true);

    private enum ModelType { Unigram = 1, Bpe = 2, Word = 3, Char = 4 }

    private sealed class Fields
    {
        public List<string?> Pieces { get; } = [];
        public List<float> Scores { get; } = [];
        public List<TokenType> Types { get; } = [];
        public ModelType Model { get; set; } = ModelType.Unigram;
        public int UnknownId { get; set; }
        public int BosId { get; set; } = 1;
        public int EosId { get; set; } = 2;
        public int PadId { get; set; } = -1;
        public bool SpaceAsSuffix { get; set; }
        public string Normalizer { get; set; } = "";
        public bool HasCharacterMap { get; set; }
        public bool DummyPrefix { get; set; } = true;
        public bool EscapeSpaces { get; set; } = true;
    }

    /// <param name="path">The file, for messages.</param>
    /// <param name="bytes">Its content.</param>
    /// <param name="config">The content of the files beside it.</param>
    public static TokenizerDefinition Read(string path, ReadOnlySpan<byte> bytes, TokenizerConfig config)
    {
        var fields = new Fields();
        var message = new Message(path, bytes, 0);
        while (message.Next(out int field))
        {
            switch (field)
            {
                case 1: ReadPiece(message.Nested(), fields); break;
                case 2: ReadTrainer(message.Nested(), fields); break;
                case 3: ReadNormalizer(message.Nested(), fields); break;
                default: message.Skip(); break;
            }
        }

        int count = fields.Pieces.Count;
        if (count == 0) throw new InvalidDataException($"{path}: expected pieces, found none");
        if (fields.Model != ModelType.Bpe)
            throw new InvalidDataException(
                $"{path}: trainer_spec.model_type: expected BPE, found {fields.Model.ToString().ToUpperInvariant()}, "
                + "which is not supported");
        if (fields.HasCharacterMap)
            throw new InvalidDataException(
                $"{path}: normalizer_spec.precompiled_charsmap: expected none (identity), found one "
                + $"('{fields.Normalizer}'), which is not supported");
        if (fields.SpaceAsSuffix)
            throw new InvalidDataException(
                $"{path}: trainer_spec.treat_whitespace_as_suffix: expected false, found true, which is not supported");

        var tokens = new AddedTokens(path, fields.Pieces, fields.Types);
        foreach (AddedToken added in config.AddedTokens)
        {
            tokens.Add(added);
            while (fields.Scores.Count < fields.Pieces.Count) fields.Scores.Add(0);
        }
        tokens.PadTo(config.VocabularySize);
        while (fields.Scores.Count < fields.Pieces.Count) fields.Scores.Add(0);

        int? bos = tokens.Find(config.BosToken) ?? Within(fields.BosId);
        int? eos = tokens.Find(config.EosToken) ?? Within(fields.EosId);
        return new TokenizerDefinition
        {
            Source = path,
            Pieces = [.. fields.Pieces],
            Types = [.. fields.Types],
            Edges = tokens.Edges,
            Scores = [.. fields.Scores],
            EscapeSpaces = fields.EscapeSpaces,
            SpacePrefix = fields.DummyPrefix ? SpacePrefix.EveryFragment : SpacePrefix.None,
            StripsLeadingSpace = fields.DummyPrefix,
            FuseUnknown = true,
            FuseAcrossWords = true,
            BosId = bos,
            EosId = eos,
            UnknownId = Within(fields.UnknownId),
            PadId = Within(fields.PadId),
            Prefix = (config.AddsBos ?? true) && bos is { } b ? [b] : [],
            Suffix = (config.AddsEos ?? false) && eos is { } e ? [e] : [],
            EndIds = config.EndIdsWithin(fields.Pieces.Count),
            ListsEnds = config.ListsEnds,
            ChatTemplate = config.ChatTemplate,
            ToolUseTemplate = config.ToolUseTemplate,
        };

        int? Within(int id) => id >= 0 && id < count ? id : null;
    }

    private static void ReadPiece(Message message, Fields fields)
    {
        string? text = null;
        float score = 0;
        var type = TokenType.Normal;
        while (message.Next(out int field))
        {
            switch (field)
            {
                case 1: text = message.Text(); break;
                case 2: score = message.Single(); break;
                case 3:
                    int at = message.Position;
                    int value = message.Int32();
                    if (value is < (int)TokenType.Normal or > (int)TokenType.Byte)
                        throw message.Wrong(at, "a piece type from 1 to 6", value.ToString());
                    type = (TokenType)value;
                    break;
                default: message.Skip(); break;
            }
        }
        fields.Pieces.Add(text);
        fields.Scores.Add(score);
        fields.Types.Add(type);
    }

    private static void ReadTrainer(Message message, Fields fields)
    {
        while (message.Next(out int field))
        {
            switch (field)
            {
                case 3: fields.Model = (ModelType)message.Int32(); break;
                case 24: fields.SpaceAsSuffix = message.Int32() != 0; break;
                case 40: fields.UnknownId = message.Int32(); break;
                case 41: fields.BosId = message.Int32(); break;
                case 42: fields.EosId = message.Int32(); break;
                case 43: fields.PadId = message.Int32(); break;
                default: message.Skip(); break;
            }
        }
    }

    private static void ReadNormalizer(Message message, Fields fields)
    {
        while (message.Next(out int field))
        {
            switch (field)
            {
                case 1: fields.Normalizer = message.Text(); break;
                case 2: fields.HasCharacterMap = message.Bytes().Length > 0; break;
                case 3: fields.DummyPrefix = message.Int32() != 0; break;
                case 5: fields.EscapeSpaces = message.Int32() != 0; break;
                default: message.Skip(); break;
            }
        }
    }

    /// <summary>One protobuf message: fields in order, each read once or skipped. Every length is compared with the
    /// bytes left.</summary>
    private ref struct Message(string path, ReadOnlySpan<byte> bytes, int offset)
    {
        private readonly ReadOnlySpan<byte> _bytes = bytes;
        private int _at;
        private int _wire;

        /// <summary>Offset in the file.</summary>
        public readonly int Position => offset + _at;

        public bool Next(out int field)
        {
            field = 0;
            if (_at == _bytes.Length) return false;
            int start = Position;
            ulong tag = Varint();
            if (tag >> 3 is 0 or > int.MaxValue) throw Wrong(start, "a field number", (tag >> 3).ToString());
            field = (int)(tag >> 3);
            _wire = (int)(tag & 7);
            return true;
        }

        public int Int32()
        {
            Expect(0, "a varint");
            return (int)(long)Varint();
        }

        public float Single()
        {
            Expect(5, "four bytes");
            return BinaryPrimitives.ReadSingleLittleEndian(Take(4));
        }

        public ReadOnlySpan<byte> Bytes()
        {
            Expect(2, "a length");
            int start = Position;
            ulong length = Varint();
            if (length > (ulong)(_bytes.Length - _at))
                throw Wrong(start, $"a length of at most {_bytes.Length - _at}", length.ToString());
            return Take((int)length);
        }

        public string Text()
        {
            int start = Position;
            try
            {
                return Strict.GetString(Bytes());
            }
            catch (DecoderFallbackException)
            {
                throw Wrong(start, "UTF-8", "other bytes");
            }
        }

        public Message Nested()
        {
            ReadOnlySpan<byte> inner = Bytes();
            return new Message(path, inner, Position - inner.Length);
        }

        public void Skip()
        {
            switch (_wire)
            {
                case 0: Varint(); break;
                case 1: Take(8); break;
                case 2: Bytes(); break;
                case 5: Take(4); break;
                default: throw Wrong(Position, "a wire type of 0, 1, 2 or 5", _wire.ToString());
            }
        }

        public readonly InvalidDataException Wrong(int at, string expected, string found)
            => new($"{path}: offset {at}: expected {expected}, found {found}");

        private readonly void Expect(int wire, string what)
        {
            if (_wire != wire) throw Wrong(Position, what, $"wire type {_wire}");
        }

        private ReadOnlySpan<byte> Take(int count)
        {
            if (count > _bytes.Length - _at)
                throw Wrong(Position, $"{count} bytes", $"the end after {_bytes.Length - _at}");
            _at += count;
            return _bytes.Slice(_at - count, count);
        }

        private ulong Varint()
        {
            int start = Position;
            ulong value = 0;
            for (int shift = 0; shift < 70; shift += 7)
            {
                byte b = Take(1)[0];
                value |= (ulong)(b & 0x7F) << shift;
                if (b < 0x80) return value;
            }
            throw Wrong(start, "a varint of at most ten bytes", "a longer one");
        }
    }
}
