namespace Native.Kernels.Text;

/// <summary>A text that a tokenizer cannot encode in bounded time or memory, because a pattern of the tokenizer's own
/// file takes too long on it, or its normalizer makes too much of it. The fault of that one text: others go on being
/// encoded.</summary>
public sealed class TextEncodingException(string message, Exception? inner = null) : Exception(message, inner);
