using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Models;

namespace Native.Tests.Kernels;

public sealed class GgufFileTests
{
    [Theory]
    [InlineData("stories260K/stories260K-F32.gguf", "llama")]
    [InlineData("stories260K/stories260K-F16.gguf", "llama")]
    [InlineData("stories260K/stories260K-Q8_0.gguf", "llama")]
    [InlineData("stories260K/stories260K-Q4_0.gguf", "llama")]
    [InlineData("SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf", "llama")]
    [InlineData("architectures/gemma2/gemma2-F32.gguf", "gemma2")]
    [InlineData("architectures/gemma3/gemma3-F32.gguf", "gemma3")]
    [InlineData("architectures/llama-linear/llama-linear-F32.gguf", "llama")]
    [InlineData("architectures/llama3-rope/llama3-rope-F32.gguf", "llama")]
    [InlineData("architectures/phi3/phi3-F32.gguf", "phi3")]
    [InlineData("architectures/qwen2/qwen2-F32.gguf", "qwen2")]
    [InlineData("architectures/qwen3/qwen3-F32.gguf", "qwen3")]
    public void Open_ReadsRealModels(string path, string architecture)
    {
        path = TestData.Path("models/" + path);
        using GgufFile file = GgufFile.Open(path);
        Assert.Equal(architecture, file.Architecture);

        // The header's own counts, read here a second way.
        using FileStream stream = File.OpenRead(path);
        using var reader = new BinaryReader(stream);
        reader.ReadUInt32();
        Assert.Equal(reader.ReadUInt32(), file.Version);
        Assert.Equal(reader.ReadUInt64(), (ulong)file.Tensors.Count);
        Assert.Equal(reader.ReadUInt64(), (ulong)file.Metadata.Count);

        TensorView embedding = file.Tensors["token_embd.weight"];
        Assert.Equal(file.GetStrings("tokenizer.ggml.tokens").Length, embedding.Rows);
        Assert.Equal(file.GetInt32($"{architecture}.embedding_length"), embedding.Columns);
        float[] row = new float[embedding.Columns];
        for (long r = 0; r < embedding.Rows; r += Math.Max(1, embedding.Rows / 7))
        {
            embedding.DecodeRow(r, row);
            Assert.All(row, x => Assert.InRange(x, -1000f, 1000f));
        }
        Assert.Equal(1, file.Tensors["output_norm.weight"].Rows);
    }

    /// <summary>The two models of gemma whose scale is told by their depth: their width is divided by heads.</summary>
    [Theory, InlineData("gemma2", 46u), InlineData("gemma3", 62u)]
    public void Config_WithoutHeads_IsRefused(string family, uint layers)
    {
        using TemporaryFile file = new GgufBytes
        {
            { "general.architecture", family }, { $"{family}.context_length", 64u }, { $"{family}.embedding_length", 8u }, { $"{family}.block_count", layers }, { $"{family}.feed_forward_length", 16u },
            { $"{family}.attention.head_count", 0u }, { $"{family}.attention.key_length", 4u }, { $"{family}.attention.layer_norm_rms_epsilon", 1e-5f },
        }.ToFile();
        using GgufFile gguf = GgufFile.Open(file.Path);
        Assert.Contains("head count is 0", Assert.Throws<InvalidDataException>(() => GgufConfig.Read(gguf)).Message);
    }

    [Fact]
    public void Open_ReadsVocabularies_WhichHaveNoTensors()
    {
        foreach (string path in Directory.GetFiles(TestData.Path("tokenizers/ggml-vocab"), "*.gguf"))
        {
            using GgufFile file = GgufFile.Open(path);
            Assert.Empty(file.Tensors);
            Assert.True(file.GetStrings("tokenizer.ggml.tokens").Length > 1000);
        }
    }

    [Fact]
    public void Open_RefusesVersion1_AndSaysWhatToDo()
    {
        var error = Assert.Throws<InvalidDataException>(() => GgufFile.Open(TestData.Path("models/stories260K/legacy-gguf-v1.gguf")));
        Assert.Contains("GGUF v1", error.Message);
        Assert.Contains("convert the model again", error.Message);
    }

    [Fact]
    public void Open_ReadsEveryMetadataType()
    {
        using TemporaryFile temporary = new GgufBytes
        {
            { "general.architecture", "llama" },
            { "u8", (byte)200 }, { "i8", (sbyte)-100 }, { "u16", (ushort)60000 }, { "i16", (short)-30000 }, { "u32", 4000000000u }, { "i32", -2000000000 },
            { "f32", 1.5f }, { "bool", true }, { "string", "\u00fcber \U0001f600" }, { "u64", ulong.MaxValue }, { "i64", long.MinValue }, { "f64", 1e300 },
            { "u8s", new byte[] { 1, 255 } }, { "i16s", new short[] { -1, 7 } }, { "i32s", new[] { -5, 5 } }, { "i64s", new[] { -5L, 1L << 40 } },
            { "f32s", new[] { 0.5f, float.NaN } }, { "f64s", new[] { 0.25, -2 } }, { "bools", new[] { true, false } }, { "strings", new[] { "", "a", "\u4f60\u597d" } },
            { "none", Array.Empty<int>() },
        }.ToFile();
        using GgufFile file = GgufFile.Open(temporary.Path);

        Assert.Equal(22, file.Metadata.Count);
        Assert.Equal("llama", file.Architecture);
        Assert.Equal([200, -100, 60000, -30000, -2000000000], new[] { "u8", "i8", "u16", "i16", "i32" }.Select(file.GetInt32));
        Assert.Equal(4000000000u, file.Metadata["u32"]);
        Assert.Equal(ulong.MaxValue, file.Metadata["u64"]);
        Assert.Equal(long.MinValue, file.Metadata["i64"]);
        Assert.Equal(1e300, file.Metadata["f64"]);
        Assert.Equal(1.5f, file.GetSingle("f32"));
        Assert.True(file.GetBoolean("bool"));
        Assert.Equal("\u00fcber \U0001f600", file.GetString("string"));
        Assert.Equal([1, 255], file.GetInt32s("u8s"));
        Assert.Equal([-1, 7], file.GetInt32s("i16s"));
        Assert.Equal([-5, 5], file.GetInt32s("i32s"));
        Assert.Equal([0.5f, float.NaN], file.GetSingles("f32s"));
        Assert.Equal([0.25f, -2f], file.GetSingles("f64s"));
        Assert.Equal(new[] { true, false }, file.Metadata["bools"]);
        Assert.Equal(["", "a", "\u4f60\u597d"], file.GetStrings("strings"));
        Assert.Empty(file.GetInt32s("none"));

        Assert.False(file.Has("absent"));
        Assert.Equal(3, file.GetInt32OrDefault("absent", 3));
        Assert.Null(file.GetStringsOrDefault("absent"));
        Assert.Equal(200, file.GetInt32OrDefault("u8", 3));
        AssertSays(() => file.GetInt32("u32"), temporary.Path, "\"u32\"", "32 bits", "4000000000");
        AssertSays(() => file.GetInt32("f32"), "\"f32\"", "an integer", "Single 1.5");
        AssertSays(() => file.GetInt32OrDefault("string", 1), "\"string\"", "an integer", "String");
        AssertSays(() => file.GetInt32s("i64s"), "\"i64s\"", "32 bits");
        AssertSays(() => file.GetInt32s("f32s"), "\"f32s\"", "array of integers", "an array of 2 Single");
        AssertSays(() => file.GetString("absent"), temporary.Path, "\"absent\"", "a string", "no such key");
        AssertSays(() => file.GetTensor("absent"), temporary.Path, "\"absent\"");
    }

    [Fact]
    public void Open_FoldsHigherDimensionsIntoRows()
    {
        float[] values = [.. Enumerable.Range(0, 24).Select(i => (float)i)];
        byte[] data = new byte[96];
        Buffer.BlockCopy(values, 0, data, 0, 96);
        using TemporaryFile temporary = new GgufBytes().Tensor("v", [1f, 2f, 3f]).Tensor("t", TensorType.F32, [4, 3, 2], data).Tensor("s", TensorType.I32, [], [1, 0, 0, 0]).ToFile();
        using GgufFile file = GgufFile.Open(temporary.Path);

        TensorView tensor = file.GetTensor("t");
        Assert.Equal((6, 4, 96), (tensor.Rows, tensor.Columns, tensor.ByteLength));
        float[] row = new float[4];
        tensor.DecodeRow(5, row);
        Assert.Equal([20f, 21f, 22f, 23f], row);
        Assert.Throws<ArgumentOutOfRangeException>(() => tensor.ReadRows(6, new byte[16]));
        Assert.Throws<ArgumentOutOfRangeException>(() => tensor.ReadRows(-1, new byte[16]));
        Assert.Throws<ArgumentOutOfRangeException>(() => tensor.ReadRows(5, new byte[17]));
        Assert.Equal((1, 3), (file.GetTensor("v").Rows, file.GetTensor("v").Columns));
        Assert.Equal((1, 1), (file.Tensors["s"].Rows, file.Tensors["s"].Columns));
        AssertSays(() => file.GetTensor("s"), "\"s\"", "I32 (26)", BlockFormat.SupportedNames);
    }

    [Fact]
    public void Open_ReadsVersion2_AndOtherAlignments()
    {
        using TemporaryFile temporary = new GgufBytes { Version = 2, Alignment = 64 }.With("general.alignment", 64u).Tensor("a", [1f]).Tensor("b", [2f]).ToFile();
        using GgufFile file = GgufFile.Open(temporary.Path);
        Assert.Equal(2u, file.Version);
        Assert.Equal(64, file.GetTensor("b").Start - file.GetTensor("a").Start);
        float[] value = new float[1];
        file.GetTensor("b").DecodeRow(0, value);
        Assert.Equal(2f, value[0]);
    }

    [Fact]
    public void Open_ReplacesInvalidUtf8()
    {
        byte[] bytes = new GgufBytes { { "general.architecture", "llama" }, { "general.name", "ab" } }.ToArray();
        int at = bytes.AsSpan().LastIndexOf("ab"u8);
        (bytes[at], bytes[at + 1]) = (0xc3, 0x28);
        using var temporary = new TemporaryFile(bytes);
        using GgufFile file = GgufFile.Open(temporary.Path);
        Assert.Equal("\ufffd(", file.GetString("general.name"));
    }

    [Fact]
    public void Open_Refuses_WhatIsNotAGgufFile()
    {
        Refuses([], "truncated");
        Refuses("GG"u8, "truncated");
        Refuses("GGUF"u8, "truncated");
        Refuses("ggml\u0003\0\0\0"u8, "offset 0", "magic", "0x6c6d6767");
        Refuses(new GgufBytes { Version = 0 }.ToArray(), "version 2 or 3", "found 0");
        Refuses(new GgufBytes { Version = 4 }.ToArray(), "version 2 or 3", "found 4");
        Refuses(new GgufBytes { Version = 1 }.ToArray(), "GGUF v1");
        Refuses(new GgufBytes { Version = 0x03000000 }.ToArray(), "big-endian");
        AssertSays(() => GgufFile.Open(Path.GetTempPath()), "found a folder");
        Assert.Throws<FileNotFoundException>(() => GgufFile.Open(Path.Combine(Path.GetTempPath(), "there-is-no-such-model.gguf")));
    }

    [Fact]
    public void Open_RefusesNamesThatRepeatOrAreEmpty()
    {
        Refuses(new GgufBytes { { "a.b", 1 }, { "a.b", 1 } }.ToArray(), "every metadata key once", "\"a.b\" twice");
        Refuses(new GgufBytes().Tensor("w", [1f]).Tensor("w", [1f]).ToArray(), "every tensor once", "\"w\" twice");
        Refuses(new GgufBytes { { "", 1 } }.ToArray(), "1 to 65535 bytes");
        Refuses(new GgufBytes { { new string('k', 65536), 1 } }.ToArray(), "1 to 65535 bytes", "found 65536");
        Refuses(new GgufBytes().Tensor("", [1f]).ToArray(), "1 to 65535 bytes");
    }

    [Fact]
    public void Open_RefusesTensorsThatAreNotWhereTheyShouldBe()
    {
        byte[] four = new byte[4];
        Refuses(new GgufBytes().Tensor("w", TensorType.F32, [1], four, offset: 64).ToArray(), "\"w\"", "inside the 4 bytes", "data offset 64");
        Refuses(new GgufBytes().Tensor("w", TensorType.F32, [1], four, offset: ulong.MaxValue - 31).ToArray(), "\"w\"", "inside");
        Refuses(new GgufBytes().Tensor("w", TensorType.F32, [1], four, offset: 4).ToArray(), "\"w\"", "multiple of the alignment 32", "offset 4");
        Refuses(new GgufBytes().Tensor("v", [1f]).Tensor("w", TensorType.F32, [1], four, offset: 0).ToArray(), "overlap", "data offset 0");
        Refuses(new GgufBytes().Tensor("w", TensorType.F32, [2], four).ToArray(), "\"w\"", "inside the 4 bytes", "found 8 bytes");
        foreach (object alignment in new object[] { 0u, 4u, 12u, 33u, 32, "32", 32ul })
            Refuses(new GgufBytes { { "general.alignment", alignment } }.Tensor("w", [1f]).ToArray(), "general.alignment", "power of two");
        Refuses(new GgufBytes { { "general.alignment", 1u << 31 } }.Tensor("w", [1f]).ToArray(), "\"w\"", "inside the 0 bytes");
    }

    [Fact]
    public void Open_RefusesShapesThatCanNotBe()
    {
        byte[] data = new byte[144];
        Refuses(new GgufBytes().Tensor("w", TensorType.F32, [0], data).ToArray(), "\"w\"", "dimension 0 of 0");
        Refuses(new GgufBytes().Tensor("w", TensorType.F32, [1, 1, 1, 1, 1], data).ToArray(), "\"w\"", "at most 4 dimensions", "found 5");
        Refuses(new GgufBytes().Tensor("w", TensorType.F32, [ulong.MaxValue], data).ToArray(), "\"w\"", "dimension 0");
        Refuses(new GgufBytes().Tensor("w", TensorType.F32, [1, 1ul << 62, 4], data).ToArray(), "\"w\"", "dimension 1");
        Refuses(new GgufBytes().Tensor("w", TensorType.F32, [1ul << 33, 1ul << 33], data).ToArray(), "\"w\"");
        Refuses(new GgufBytes().Tensor("w", TensorType.F32, [300, 300], data).ToArray(), "\"w\"", "300 x 300 values of F32");
        Refuses(new GgufBytes().Tensor("w", TensorType.Q4_K, [128, 2], data).ToArray(), "\"w\"", "whole Q4_K blocks of 256", "128 columns");
        Refuses(new GgufBytes().Tensor("w", TensorType.Q8_0, [33], data).ToArray(), "\"w\"", "whole Q8_0 blocks of 32", "33 columns");
    }

    [Fact]
    public void Open_NamesTheTensorType_WhenItIsNotSupported()
    {
        byte[] data = new byte[66];
        Refuses(new GgufBytes().Tensor("w", TensorType.IQ2_XXS, [256], data).ToArray(), "\"w\"", "IQ2_XXS (16)", BlockFormat.SupportedNames);
        Refuses(new GgufBytes().Tensor("w", (TensorType)31, [256], data).ToArray(), "\"w\"", "number 31", BlockFormat.SupportedNames);
        Refuses(new GgufBytes().Tensor("w", (TensorType)(-1), [256], data).ToArray(), "number -1");
    }

    [Theory, InlineData(8), InlineData(16)]
    public void Open_RefusesCountsThatTheFileHasNoRoomFor(int at)
    {
        foreach (ulong count in new ulong[] { 1000, int.MaxValue, 1ul << 32, 1ul << 62, ulong.MaxValue })
        {
            byte[] bytes = Sound();
            BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(at), count);
            Refuses(bytes, $"offset {at}", $"found {count}");
        }
    }

    [Fact]
    public void Open_RefusesLengthsThatTheFileHasNoRoomFor()
    {
        // The length of "llama.tokens" (an array of strings) and that of its first string.
        byte[] sound = Sound();
        int array = sound.AsSpan().IndexOf("llama.tokens"u8) + "llama.tokens".Length + 8;
        foreach (int at in new[] { array, array + 8, array - 8 - "llama.tokens".Length - 8 })
        {
            foreach (ulong length in new[] { (ulong)sound.Length, 1ul << 31, 1ul << 40, 1ul << 63, ulong.MaxValue })
            {
                byte[] bytes = Sound();
                BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(at), length);
                Refuses(bytes, $"offset {at}", $"found {length}");
            }
        }
    }

    [Fact]
    public void Open_RefusesMetadataTypesThatAreNone()
    {
        byte[] sound = Sound();
        int array = sound.AsSpan().IndexOf("llama.tokens"u8) + "llama.tokens".Length;
        Refuses(With(sound, array, 13), "llama.tokens", "value type of 0 to 12", "found 13");
        Refuses(With(sound, array + 4, 99), "llama.tokens", "element type of 0 to 12", "found 99");
        Refuses(With(sound, array + 4, 9), "llama.tokens", "an array of arrays");
        int boolean = sound.AsSpan().IndexOf("llama.flag"u8) + "llama.flag".Length + 4;
        Refuses(With(sound, boolean, 2), "boolean of 0 or 1", "found 2");

        static byte[] With(byte[] bytes, int at, byte value)
        {
            byte[] copy = [.. bytes];
            copy[at] = value;
            return copy;
        }
    }

    [Fact]
    public void Open_RefusesEveryTruncation()
    {
        GgufBytes writer = SoundWriter();
        byte[] sound = writer.ToArray();
        IEnumerable<int> lengths = Enumerable.Range(0, 50).Select(i => sound.Length * i / 50).Concat(writer.Boundaries).Concat(writer.Boundaries.Select(b => b + 1)).Append(sound.Length - 1);
        foreach (int length in lengths.Where(n => n < sound.Length).Distinct())
        {
            Refuses(sound.AsSpan(..length));
        }
    }

    [Fact]
    public void Open_RefusesEveryTruncationOfARealModel()
    {
        byte[] real = File.ReadAllBytes(TestData.Path("models/stories260K/stories260K-Q8_0.gguf"));
        for (int i = 0; i < 50; i++) Refuses(real.AsSpan(..(real.Length * i / 50)));
        Refuses(real.AsSpan(..^1));
    }

    /// <summary>Two thousand damaged headers: each opens or is refused, and none makes the reader allocate more than it
    /// promises.</summary>
    [Fact]
    public void Open_SurvivesRandomDamage_AndBoundsItsAllocation() => SurvivesDamage(SoundWriter().ToArray(), headerLength: 500, trials: 2000);

    [Fact]
    public void Open_SurvivesRandomDamageToARealModel()
    {
        string path = TestData.Path("models/stories260K/stories260K-Q4_0.gguf");
        using GgufFile file = GgufFile.Open(path);
        byte[] real = File.ReadAllBytes(path);
        SurvivesDamage(real, headerLength: real.Length - (int)file.Tensors.Values.Sum(t => t.ByteLength), trials: 500);
    }

    private static void SurvivesDamage(byte[] sound, int headerLength, int trials)
    {
        ulong[] extremes = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 1ul << 32, long.MaxValue, 1ul << 63, ulong.MaxValue];
        using var temporary = new TemporaryFile(sound);
        Assert.True(Survives(temporary.Path)); // and what allocates only once does so here
        var random = new Random(42);
        int opened = 0, refused = 0;
        for (int i = 0; i < trials; i++)
        {
            byte[] bytes = [.. sound];
            for (int edits = random.Next(1, 5); edits > 0; edits--)
            {
                int at = random.Next(headerLength - 8);
                switch (random.Next(4))
                {
                    case 0: bytes[at] ^= (byte)(1 << random.Next(8)); break;
                    case 1: bytes[at] = (byte)random.Next(256); break;
                    case 2: BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(at), extremes[random.Next(extremes.Length)]); break;
                    default: BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(at), (uint)extremes[random.Next(extremes.Length)]); break;
                }
            }
            if (random.Next(10) == 0) bytes = bytes[..random.Next(bytes.Length)];
            File.WriteAllBytes(temporary.Path, bytes);
            if (Survives(temporary.Path)) opened++;
            else refused++;
        }
        Assert.True(opened > trials / 40 && refused > trials / 4, $"{opened} opened and {refused} were refused: the damage is too gentle or too rough to tell anything");
    }

    [Fact]
    public void Open_AllocatesNoMoreThanItPromises_ForFilesOfTheDensestKinds()
    {
        var pairs = new GgufBytes();
        for (int i = 0; i < 20_000; i++) pairs.Add($"{i:x}", (byte)1);
        var tensors = new GgufBytes { Alignment = 8 };
        tensors.Add("general.alignment", 8u);
        for (int i = 0; i < 20_000; i++) tensors.Tensor($"{i:x}", TensorType.I8, [], [1]);
        GgufBytes strings = new GgufBytes().With("s", Enumerable.Range(0, 100_000).Select(i => $"{(char)('a' + i % 26)}").ToArray());
        foreach (GgufBytes writer in new[] { pairs, tensors, strings })
        {
            using TemporaryFile temporary = writer.ToFile();
            Assert.True(Survives(temporary.Path));
        }
    }

    [Fact]
    public void Open_AllocatesNoMoreThanItPromises_ForTextThatIsNotUtf8()
    {
        byte[] bytes = new GgufBytes { { "general.name", new string('x', 100_000) } }.ToArray();
        bytes.AsSpan(^100_000..).Fill(0xff);
        using var temporary = new TemporaryFile(bytes);
        Assert.True(Survives(temporary.Path));
        Assert.True(Survives(temporary.Path));
    }

    [Fact]
    public void Open_JoinsTheFilesOfASplitModel()
    {
        using var folder = new TemporaryFolder();
        for (int i = 0; i < 3; i++) WritePart(folder, i, $"blk.{i}.w");
        using (GgufFile file = GgufFile.Open(folder.File("m-00001-of-00003.gguf")))
        {
            Assert.Equal(["blk.0.w", "blk.1.w", "blk.2.w"], file.Tensors.Keys.Order());
            float[] value = new float[1];
            file.GetTensor("blk.2.w").DecodeRow(0, value);
            Assert.Equal(2f, value[0]);
        }

        AssertSays(() => GgufFile.Open(folder.File("m-00002-of-00003.gguf")), "part 2 of 3", "m-00001-of-00003.gguf");
        File.Copy(folder.File("m-00001-of-00003.gguf"), folder.File("renamed.gguf"));
        AssertSays(() => GgufFile.Open(folder.File("renamed.gguf")), "-00001-of-00003.gguf", "rename it back");
        WritePart(folder, 2, "blk.1.w");
        AssertSays(() => GgufFile.Open(folder.File("m-00001-of-00003.gguf")), "\"blk.1.w\" twice");
        File.Copy(folder.File("m-00002-of-00003.gguf"), folder.File("m-00003-of-00003.gguf"), overwrite: true);
        AssertSays(() => GgufFile.Open(folder.File("m-00001-of-00003.gguf")), "do not belong together");
        File.Delete(folder.File("m-00003-of-00003.gguf"));
        AssertSays(() => GgufFile.Open(folder.File("m-00001-of-00003.gguf")), "found no", "m-00003-of-00003.gguf");
    }

    private static void WritePart(TemporaryFolder folder, int i, string tensor)
    {
        var writer = new GgufBytes { { "split.no", (ushort)i }, { "split.count", (ushort)3 }, { "split.tensors.count", 3 } };
        if (i == 0) writer.Add("general.architecture", "llama");
        File.WriteAllBytes(folder.File($"m-{i + 1:d5}-of-00003.gguf"), writer.Tensor(tensor, [i]).ToArray());
    }

    private static GgufBytes SoundWriter()
    {
        var random = new Random(7);
        byte[] q8 = new byte[2 * 34];
        random.NextBytes(q8);
        return new GgufBytes
        {
            { "general.architecture", "llama" }, { "general.alignment", 32u }, { "llama.block_count", 2u }, { "llama.rope.freq_base", 10000f }, { "llama.flag", true },
            { "llama.tokens", new[] { "<s>", "</s>", "a", "" } }, { "llama.scores", new[] { 0f, 1f } }, { "llama.types", new[] { 1, 2, 3 } }, { "general.size", 12345678901ul },
        }.Tensor("token_embd.weight", TensorType.Q8_0, [32, 2], q8).Tensor("output_norm.weight", [1f, 2f, 3f]).Tensor("output.weight", [1f, 2f, 3f, 4f], columns: 2);
    }

    private static byte[] Sound() => SoundWriter().ToArray();

    private static void Refuses(ReadOnlySpan<byte> bytes, params ReadOnlySpan<string> says)
    {
        using var temporary = new TemporaryFile(bytes);
        var error = Assert.Throws<InvalidDataException>(() => GgufFile.Open(temporary.Path).Dispose());
        Assert.StartsWith(temporary.Path, error.Message);
        foreach (string text in says) Assert.Contains(text, error.Message);
    }

    private static void AssertSays(Action action, params ReadOnlySpan<string> says)
    {
        string message = Assert.Throws<InvalidDataException>(action).Message;
        foreach (string text in says) Assert.Contains(text, message);
    }

    private static void AssertSays(Func<object> action, params ReadOnlySpan<string> says) => AssertSays((Action)(() => action()), says);

    /// <summary>Whether the file opens (true) or is refused (false); anything else, or too much memory, fails the test.
    /// Reads every byte that was opened.</summary>
    private static bool Survives(string path)
    {
        long bound = GgufFile.MaxAllocationPerByte * new FileInfo(path).Length + GgufFile.MaxAllocationBase;
        (bool opened, long allocated) = Measure(path);
        // What is made once, or again after a collection emptied the pool, is not the file's.
        if (allocated > bound) (_, allocated) = Measure(path);
        Assert.InRange(allocated, 0, bound);
        return opened;
    }

    private static (bool Opened, long Allocated) Measure(string path)
    {
        long before = GC.GetAllocatedBytesForCurrentThread();
        bool opened = true;
        try
        {
            using GgufFile file = GgufFile.Open(path);
            long sum = 0;
            foreach (TensorView tensor in file.Tensors.Values)
            {
                byte[] bytes = ArrayPool<byte>.Shared.Rent((int)tensor.ByteLength); // what was allocated for an earlier file does not count
                if (tensor.Rows > 0) tensor.ReadRows(0, bytes.AsSpan(0, (int)tensor.ByteLength));
                if (tensor.ByteLength > 0) sum += bytes[tensor.ByteLength - 1];
                ArrayPool<byte>.Shared.Return(bytes);
            }
            Assert.True(sum >= 0);
        }
        catch (InvalidDataException)
        {
            opened = false;
        }
        return (opened, GC.GetAllocatedBytesForCurrentThread() - before);
    }
}
