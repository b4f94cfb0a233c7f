namespace Native.Kernels.Text;

/// <summary>A text that a tokenizer can't encode in bounded time or memory: a pattern of the tokenizer's file takes too
/// long on it, or the normalizer makes it too long. Other texts are not affected.</summary>
public sealed class TextEncodingException(string message, Exception? inner = null) : Exception(message, inner);
