using System.Text.Json;
using System.Text.Json.Serialization;
using Native.Tools;

namespace Native.Bench.Serve;

/// <summary>One request of a timed trace.</summary>
/// <param name="Timestamp">When it comes.</param>
/// <param name="InputLength">Tokens of its prompt.</param>
/// <param name="OutputLength">Tokens of its answer.</param>
/// <param name="HashIds">What is in each block of the prompt: equal ids are equal tokens.</param>
internal sealed record TimedRequest(
    [property: JsonPropertyName("timestamp")] double Timestamp,
    [property: JsonPropertyName("input_length")] int InputLength,
    [property: JsonPropertyName("output_length")] int OutputLength,
    [property: JsonPropertyName("hash_ids")] long[] HashIds);

/// <summary>Loads as lines of JSON in the format of vLLM's <c>timed_trace</c> and of Mooncake's traces.</summary>
internal static class TimedTrace
{
    /// <summary>Writes a trace: seconds, and blocks of 16 tokens, which is what vLLM takes by default.</summary>
    public static void Write(string path, IEnumerable<TimedRequest> requests)
    {
        using StreamWriter writer = new(path);
        foreach (TimedRequest request in requests) writer.Write(JsonSerializer.Serialize(request) + "\n");
    }

    /// <summary>Reads a trace, by rising time.</summary>
    /// <param name="path">The file.</param>
    /// <param name="most">Lines to read at most.</param>
    /// <param name="blockTokens">Tokens that an id stands for.</param>
    /// <exception cref="CommandException">A line is no request; says which.</exception>
    public static List<TimedRequest> Read(string path, int most, int blockTokens)
    {
        List<TimedRequest> requests = [];
        int number = 0;
        foreach (string line in File.ReadLines(path))
        {
            number++;
            if (requests.Count == most) break;
            if (line.Trim().Length == 0) continue;
            requests.Add(Parse(line, $"{path}, line {number}", blockTokens));
        }
        if (requests.Count == 0) throw new CommandException($"{path} has no request");
        requests.Sort((a, b) => a.Timestamp.CompareTo(b.Timestamp));
        return requests;
    }

    private static TimedRequest Parse(string line, string place, int blockTokens)
    {
        TimedRequest? request;
        try
        {
            request = JsonSerializer.Deserialize<TimedRequest>(line);
        }
        catch (JsonException e)
        {
            throw new CommandException($"{place}: {e.Message}");
        }
        if (request is not { InputLength: > 0, OutputLength: > 0, HashIds: not null }
            || !(request.Timestamp >= 0 && double.IsFinite(request.Timestamp)))
            throw new CommandException($"{place}: timestamp from 0, input_length and output_length above 0 and "
                + "hash_ids are expected");
        if ((long)request.HashIds.Length * blockTokens < request.InputLength)
            throw new CommandException($"{place}: {request.HashIds.Length} hash_ids of {blockTokens} tokens are fewer "
                + $"than {request.InputLength}; --timed-trace-chunk-hash-size says how many tokens an id stands for");
        return request;
    }
}

/// <summary>Tokens that stand for a block's id, the same for everyone who asks.</summary>
internal static class BlockContent
{
    /// <summary>The token at <paramref name="offset"/> of block <paramref name="id"/>, by SplitMix64 (Steele et al.
    /// 2014).</summary>
    public static int Token(long id, int offset, int vocabulary)
    {
        ulong z = unchecked(((ulong)id * 0x9E3779B97F4A7C15) + ((ulong)offset * 0xD1342543DE82EF95) + 1);
        z = unchecked((z ^ z >> 30) * 0xBF58476D1CE4E5B9);
        z = unchecked((z ^ z >> 27) * 0x94D049BB133111EB);
        return (int)((z ^ z >> 31) % (ulong)vocabulary);
    }
}
