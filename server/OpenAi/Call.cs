using Native.Server.Serving;

namespace Native.Server.OpenAi;

/// <summary>A request for completions or a chat, read and checked. Nothing of it runs yet.</summary>
/// <param name="Parameters">What both kinds ask for alike.</param>
/// <param name="Requests">What the engine is asked for: one for each prompt, all with the same parameters.</param>
/// <param name="Format">How the answer is written.</param>
/// <param name="Echo">The prompts' texts, where the answer begins with them.</param>
internal sealed record Call(
    Parameters Parameters, IReadOnlyList<TextRequest> Requests, IAnswerFormat Format,
    IReadOnlyList<Echo>? Echo = null)
{
    /// <summary>Choices for each prompt.</summary>
    public int N => Requests[0].Tokens.Sampling.N;
}

/// <summary>A prompt's text, to be told before what follows it.</summary>
/// <param name="Text">As it was typed; what ids stand for where the prompt was ids.</param>
/// <param name="Start">How many of the prompt's first tokens are not in the text, because they were added to
/// it.</param>
internal sealed record Echo(string Text, int Start);
