using Native.Bench.Serve;
using Native.Server.Http;
using Native.Server.OpenAi;

namespace Native.Bench.Soak;

/// <summary>How a request of the soak behaves.</summary>
internal enum SoakKind
{
    Short,
    Long,
    Chat,

    /// <summary>A long beginning that many share, and an end of its own.</summary>
    SharedPrefix,

    /// <summary>Ends before a text, where that comes.</summary>
    StopText,

    /// <summary>Several choices, with log-probabilities.</summary>
    Choices,

    /// <summary>Leaves after some tokens.</summary>
    Cancel,

    /// <summary>Leaves without reading, at whatever the server does just then.</summary>
    Abandon,

    /// <summary>Reads slower than is generated.</summary>
    SlowReader,

    /// <summary>A prompt past the context.</summary>
    TooLong,

    /// <summary>A mistake that has a status of its own.</summary>
    BadRequest,
}

/// <summary>How it is asked.</summary>
internal enum SoakTransport
{
    OpenAi,
    OpenAiStreamed,
    Grpc,
}

/// <summary>One thing to ask, the same each time: whoever asks it again, by whatever protocol and beside whomever, must
/// be answered alike.</summary>
internal sealed record SoakCase
{
    public required int Number { get; init; }

    /// <summary>The prompt, or the user's message in a chat.</summary>
    public required string Prompt { get; init; }

    public bool Chat { get; init; }

    public required int MaxTokens { get; init; }

    /// <summary>0 is greedy.</summary>
    public required double Temperature { get; init; }

    public required int Seed { get; init; }

    /// <summary>Goes on past the model's end tokens, to <see cref="MaxTokens"/>.</summary>
    public bool IgnoreEos { get; init; }

    public string? Stop { get; init; }

    public int N { get; init; } = 1;

    /// <summary>Alternatives to tell of each token; null for none.</summary>
    public int? Logprobs { get; init; }
}

/// <summary>What the clients ask, drawn from a seed: a set of cases of every kind, and how often each kind
/// comes.</summary>
internal sealed class SoakWorkload
{
    // Of 100 requests. Most are what servers are for; each way of leaving or failing comes every few seconds.
    private static readonly (SoakKind Kind, int Share)[] Shares =
    [
        (SoakKind.Short, 34), (SoakKind.Long, 8), (SoakKind.Chat, 10), (SoakKind.SharedPrefix, 8),
        (SoakKind.StopText, 7), (SoakKind.Choices, 5),
        (SoakKind.Cancel, 10), (SoakKind.Abandon, 5), (SoakKind.SlowReader, 3), (SoakKind.TooLong, 3),
        (SoakKind.BadRequest, 7),
    ];

    // Common in English text, so that some of the answers come to them.
    private static readonly string[] Stops = [" the", ".", " and", " was", "\n", " a "];

    private readonly Dictionary<SoakKind, SoakCase[]> _cases = [];

    /// <param name="seed">The same seed gives the same cases.</param>
    /// <param name="maxModelLength">Tokens a sequence may have: long prompts take a part of it, and too long ones
    /// more.</param>
    /// <param name="chats">Whether the model has a chat template.</param>
    public SoakWorkload(int seed, int maxModelLength, bool chats)
    {
        Chats = chats;
        Random random = new(seed);
        int number = 0;
        // A word is one token of a large vocabulary and a few of a small one: prompts of an eighth of the context stay
        // inside it. Answers are long enough that most steps are of decodes alone.
        int most = Math.Clamp(maxModelLength / 8, 8, 1024), output = Math.Clamp(maxModelLength / 4, 8, 256);
        string Words(int count) => Prompts.Random(1, count, 1, 0, null, random)[0].Text;
        SoakCase Drawn(string prompt, int maxTokens) => new()
        {
            Number = number++,
            Prompt = prompt,
            MaxTokens = maxTokens,
            Temperature = random.Next(3) == 0 ? 0 : 0.7 + 0.1 * random.Next(4),
            Seed = random.Next(1, 1 << 30),
            IgnoreEos = random.Next(3) > 0, // or a model of short answers would hardly decode between its prompts
        };
        SoakCase[] Several(int count, Func<SoakCase> of) => [.. Enumerable.Range(0, count).Select(_ => of())];

        _cases[SoakKind.Short] =
            Several(32, () => Drawn(Words(random.Next(1, Math.Min(24, most))), random.Next(1, output)));
        _cases[SoakKind.Long] = Several(8, () => Drawn(Words(random.Next(most / 2, most)), random.Next(4, output)));
        _cases[SoakKind.Chat] =
            Several(10, () =>
                Drawn(Words(random.Next(2, Math.Min(20, most))), random.Next(4, output)) with { Chat = true });
        string[] prefixes = [.. Enumerable.Range(0, 3).Select(_ => Words(most / 2))];
        _cases[SoakKind.SharedPrefix] =
            Several(12, () => Drawn(prefixes[random.Next(prefixes.Length)] + " " + Words(random.Next(1, 8)),
                random.Next(4, output / 2)));
        _cases[SoakKind.StopText] =
            Several(12, () =>
                Drawn(Words(random.Next(2, 12)), output) with { Stop = Stops[random.Next(Stops.Length)] });
        _cases[SoakKind.Choices] =
            Several(6, () =>
                Drawn(Words(random.Next(2, 12)), random.Next(4, output / 2)) with
                {
                    N = random.Next(2, 4),
                    Logprobs = random.Next(0, 3),
                    Temperature = 0.8
                });
        _cases[SoakKind.Cancel] = Several(8, () => Drawn(Words(random.Next(2, 24)), output));
        _cases[SoakKind.Abandon] = _cases[SoakKind.Cancel];
        _cases[SoakKind.SlowReader] = Several(4, () => Drawn(Words(random.Next(2, 12)), output));
        _cases[SoakKind.TooLong] = Several(2, () => Drawn(Words(maxModelLength + 1 + random.Next(50)), 4));
    }

    /// <summary>Whether chats are among the requests.</summary>
    public bool Chats { get; }

    public SoakKind DrawKind(Random random)
    {
        int drawn = random.Next(Shares.Sum(share => share.Share));
        foreach ((SoakKind kind, int share) in Shares)
        {
            if (drawn < share) return kind == SoakKind.Chat && !Chats ? SoakKind.Short : kind;
            drawn -= share;
        }
        throw new InvalidOperationException("every number below the sum belongs to a kind");
    }

    public SoakCase DrawCase(SoakKind kind, Random random) => _cases[kind][random.Next(_cases[kind].Length)];
}
