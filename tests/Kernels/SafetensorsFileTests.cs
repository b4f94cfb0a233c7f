using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using Native.Kernels.Files;
using Native.Kernels.Formats;

namespace Native.Tests.Kernels;

public sealed class SafetensorsFileTests
{
    private const string Weight = """{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}""";

    [Theory]
    [InlineData("stories260K/hf", "stories260K/stories260K-F32.gguf")]
    [InlineData("architectures/qwen2/hf", "architectures/qwen2/qwen2-F32.gguf")]
    [InlineData("architectures/qwen3/hf", "architectures/qwen3/qwen3-F32.gguf")]
    [InlineData("architectures/gemma2/hf", "architectures/gemma2/gemma2-F32.gguf")]
    [InlineData("architectures/phi3/hf", "architectures/phi3/phi3-F32.gguf")]
    [InlineData("architectures/llama-linear/hf", "architectures/llama-linear/llama-linear-F32.gguf")]
    public void Open_ReadsTheSameWeightsAsTheGgufFile(string folder, string gguf)
    {
        using SafetensorsFile file = SafetensorsFile.Open(TestData.Path("models/" + folder));
        using GgufFile other = GgufFile.Open(TestData.Path("models/" + gguf));
        Same(file.GetTensor("model.embed_tokens.weight"), other.GetTensor("token_embd.weight"));
        Same(file.GetTensor("model.layers.1.mlp.down_proj.weight"), other.GetTensor("blk.1.ffn_down.weight"));
        Assert.Empty(file.OtherTensors);

        static void Same(TensorView a, TensorView b)
        {
            Assert.Equal((a.Rows, a.Columns), (b.Rows, b.Columns));
            float[] x = new float[a.Columns], y = new float[b.Columns];
            for (long r = 0; r < a.Rows; r++)
            {
                a.DecodeRow(r, x);
                b.DecodeRow(r, y);
                Assert.Equal(x, y);
            }
        }
    }

    [Fact]
    public void Open_ReadsEveryFolderOfArchitectures()
    {
        foreach (string folder in Directory.GetDirectories(TestData.Path("models/architectures")))
        {
            using SafetensorsFile file = SafetensorsFile.Open(Path.Combine(folder, "hf"));
            Assert.NotEmpty(file.Tensors);
        }
    }

    [Fact]
    public void Open_ReadsFloats_AndListsOtherTypesWithoutFailing()
    {
        using var temporary = new TemporaryFile(Bytes("""
            {"__metadata__":{"format":"pt"},
             "half":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},
             "brain":{"dtype":"BF16","shape":[1,1,2],"data_offsets":[4,8]},
             "scalar":{"dtype":"F32","shape":[],"data_offsets":[8,12]},
             "cube":{"dtype":"F32","shape":[2,1,1],"data_offsets":[12,20]},
             "ids":{"dtype":"I64","shape":[1],"data_offsets":[20,28]},
             "mask":{"dtype":"BOOL","shape":[4],"data_offsets":[28,32]},
             "eighth":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[32,36]},
             "new":{"dtype":"F4_E2M1","shape":[8],"data_offsets":[36,40]},
             "empty":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]}}
            """, [0x00, 0x3c, 0x00, 0xc0, 0x80, 0x3f, 0x00, 0xc0, 0x00, 0x00, 0xc0, 0x3f, .. new byte[28]]));
        using SafetensorsFile file = SafetensorsFile.Open(temporary.Path);

        float[] two = new float[2], one = new float[1];
        file.GetTensor("half").DecodeRow(0, two);
        Assert.Equal([1f, -2f], two);
        file.GetTensor("brain").DecodeRow(0, two);
        Assert.Equal([1f, -2f], two);
        file.GetTensor("scalar").DecodeRow(0, one);
        Assert.Equal(1.5f, one[0]);
        Assert.Equal((2, 1, 4), (file.Tensors["cube"].Rows, file.Tensors["cube"].Columns, file.Tensors["cube"].RowBytes));
        Assert.Equal((0, 4, 0), (file.Tensors["empty"].Rows, file.Tensors["empty"].Columns, file.Tensors["empty"].RowBytes));
        Assert.Equal(TensorType.I64, file.Tensors["ids"].Type);
        Assert.Equal(["eighth", "mask", "new"], file.OtherTensors.Keys.Order());
        Says(() => file.GetTensor("ids"), "\"ids\"", "I64", "F32, F16, BF16");
        Says(() => file.GetTensor("eighth"), "\"eighth\"", "F8_E4M3", "F32, F16, BF16");
        Says(() => file.GetTensor("absent"), "\"absent\"", "no such name");
    }

    [Fact]
    public void Open_RefusesFilesThatAreDamaged()
    {
        Refuses([], "offset 0", "truncated");
        Refuses(new byte[7], "truncated");
        Refuses(Bytes(Weight, new byte[15]), "\"w\"", "inside the 15 bytes", "0 to 16");
        foreach (ulong length in new ulong[] { 1000, 1ul << 31, 1ul << 62, ulong.MaxValue })
        {
            byte[] bytes = Bytes(Weight, new byte[16]);
            BinaryPrimitives.WriteUInt64LittleEndian(bytes, length);
            Refuses(bytes, "offset 0", $"found {length}");
        }
        RefusesHeader("", "JSON");
        RefusesHeader("{", "JSON");
        RefusesHeader("[]", "the header to be an object");
        RefusesHeader("""{"w":1}""", "a tensor to be an object");
        RefusesHeader("{} {}", "JSON");
        RefusesHeader("""{"w":{"dtype":"F32","shape":[2,2]}}""", "\"w\"", "one missing");
        RefusesHeader("""{"w":{"dtype":7,"shape":[2,2],"data_offsets":[0,16]}}""", "a dtype to be a string");
        RefusesHeader("""{"w":{"dtype":"F32","shape":[2,-2],"data_offsets":[0,16]}}""", "-2");
        RefusesHeader("""{"w":{"dtype":"F32","shape":[2,2.5],"data_offsets":[0,16]}}""", "2.5");
        RefusesHeader("""{"w":{"dtype":"F32","shape":[2,"x"],"data_offsets":[0,16]}}""", "String");
        RefusesHeader("""{"w":{"dtype":"F32","shape":4,"data_offsets":[0,16]}}""", "a shape to be an array");
        RefusesHeader("""{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16,32]}}""", "two data_offsets");
        RefusesHeader("""{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[16,0]}}""", "\"w\"", "16 to 0");
        RefusesHeader("""{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,18446744073709551615]}}""", "18446744073709551615");
        RefusesHeader("""{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,16]}}""", "\"w\"", "take 24 bytes, found 16");
        RefusesHeader("""{"w":{"dtype":"F32","shape":[4611686018427387904,4611686018427387904,4],"data_offsets":[0,16]}}""", "\"w\"", "beyond 64 bits");
        RefusesHeader("""{"w":{"dtype":"F64","shape":[8388608,4611686018427387904],"data_offsets":[0,0]}}""", "\"w\"", "beyond 64 bits"); // 2^85 * 8: nothing may wrap
        RefusesHeader("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}""", "overlap", "\"b\"");
        RefusesHeader("""{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}""", "\"w\" twice");
        RefusesHeader("""{"\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}""", "JSON");
        RefusesHeader(new string('[', 10_000), "the header to be an object");
        RefusesHeader($$"""{"__metadata__":{{new string('[', 10_000)}}""", "JSON");
    }

    [Fact]
    public void Open_SurvivesRandomDamage_AndBoundsItsAllocation()
    {
        var header = new StringBuilder("{\"__metadata__\":{\"format\":\"pt\"}");
        for (int i = 0; i < 6; i++) header.Append($",\"layers.{i}.w\":{{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[{16 * i},{16 * i + 16}]}}");
        byte[] sound = Bytes(header.Append('}').ToString(), new byte[96]);
        using var temporary = new TemporaryFile(sound);
        Survives(temporary.Path);
        var random = new Random(42);
        const string pieces = "{}[]\":,0123456789-.eEF\\u\u0000\u00ff";
        int opened = 0, refused = 0;
        for (int i = 0; i < 2000; i++)
        {
            byte[] bytes = [.. sound];
            for (int edits = random.Next(1, 4); edits > 0; edits--) bytes[random.Next(bytes.Length)] = (byte)pieces[random.Next(pieces.Length)];
            if (random.Next(10) == 0) bytes = bytes[..random.Next(bytes.Length)];
            File.WriteAllBytes(temporary.Path, bytes);
            if (Survives(temporary.Path)) opened++;
            else refused++;
        }
        Assert.True(opened > 50 && refused > 500, $"{opened} opened and {refused} were refused: the damage is too gentle or too rough to tell anything");
    }

    [Fact]
    public void Open_AllocatesNoMoreThanItPromises_ForManyTinyTensors()
    {
        string header = string.Join(',', Enumerable.Range(0, 20_000).Select(i => $$"""{{'"'}}{{i:x}}":{"dtype":"I8","shape":[],"data_offsets":[{{i}},{{i + 1}}]}"""));
        using var temporary = new TemporaryFile(Bytes($"{{{header}}}", new byte[20_000]));
        Assert.True(Survives(temporary.Path));
    }

    [Fact]
    public void Open_ReadsShards_AndRefusesAnIndexThatDoesNotFitThem()
    {
        using var folder = new TemporaryFolder();
        string index = folder.File("model.safetensors.index.json");
        Says(() => SafetensorsFile.Open(folder.Path), folder.Path, "found neither");

        File.WriteAllBytes(folder.File("1.safetensors"), Bytes("""{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}""", [0, 0, 0x80, 0x3f]));
        File.WriteAllBytes(folder.File("2.safetensors"), Bytes("""{"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"unlisted":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}}""", [0, 0, 0, 0x40]));
        File.WriteAllText(index, """{"metadata":{"total_size":8},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}""");
        using (SafetensorsFile file = SafetensorsFile.Open(folder.Path))
        {
            Assert.Equal(["a", "b"], file.Tensors.Keys.Order());
            float[] value = new float[1];
            file.GetTensor("b").DecodeRow(0, value);
            Assert.Equal(2f, value[0]);
        }

        RefusesIndex("""{"weight_map":{"a":"3.safetensors"}}""", "\"3.safetensors\"", "no such file");
        RefusesIndex("""{"weight_map":{"c":"1.safetensors"}}""", "\"c\"", "\"1.safetensors\"", "no such tensor");
        RefusesIndex("""{"weight_map":{"b":"1.safetensors"}}""", "\"b\"", "no such tensor");
        RefusesIndex("""{"weight_map":{"a":"../1.safetensors"}}""", "beside the index", "../1.safetensors");
        RefusesIndex("""{"weight_map":{"a":"/etc/passwd"}}""", "beside the index");
        RefusesIndex("""{"weight_map":{"a":".."}}""", "beside the index");
        RefusesIndex("""{"weight_map":{"a":7}}""", "beside the index", "7");
        RefusesIndex("""{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}""", "\"a\" twice");
        RefusesIndex("""{"weight_map":[]}""", "weight_map");
        RefusesIndex("[]", "weight_map");
        RefusesIndex("{", "JSON");
        RefusesIndex("", "JSON");

        void RefusesIndex(string json, params ReadOnlySpan<string> says)
        {
            File.WriteAllText(index, json);
            Says(() => SafetensorsFile.Open(folder.Path), [index, .. says]);
        }
    }

    private static byte[] Bytes(string header, byte[] data)
    {
        byte[] json = Encoding.UTF8.GetBytes(header);
        byte[] length = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(length, json.Length);
        return [.. length, .. json, .. data];
    }

    private static void RefusesHeader(string header, params ReadOnlySpan<string> says) => Refuses(Bytes(header, new byte[16]), says);

    private static void Refuses(byte[] bytes, params ReadOnlySpan<string> says)
    {
        using var temporary = new TemporaryFile(bytes);
        Says(() => SafetensorsFile.Open(temporary.Path), [temporary.Path, .. says]);
    }

    private static void Says(Func<object> action, params ReadOnlySpan<string> says)
    {
        string message = Assert.Throws<InvalidDataException>(action).Message;
        foreach (string text in says) Assert.Contains(text, message);
    }

    /// <summary>Whether the file opens (true) or is refused (false); anything else, or too much memory, fails the test.
    /// Reads every byte that was opened.</summary>
    private static bool Survives(string path)
    {
        long bound = SafetensorsFile.MaxAllocationPerByte * new FileInfo(path).Length + SafetensorsFile.MaxAllocationBase;
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
            using SafetensorsFile file = SafetensorsFile.Open(path);
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
