namespace Native.Kernels.Text;

/// <summary>A text that a tokenizer cannot encode in bounded time, because a pattern of the tokenizer's own file takes too long on it.
/// The fault of that one text: others go on being encoded.</summary>
public sealed class TextEncodingException(string message, Exception inner) : Exception(message, inner);
