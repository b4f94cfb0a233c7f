using System.Buffers.Binary;
using System.Text;
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
}
